//! What is asked of a server, and how it can fail.

use std::fmt::{Display, Write};

use redis::{Cmd, RedisError, Value};

use super::arg_buffer::ArgBuffer;

/// A script that runs on the server.
#[derive(Debug)]
pub(crate) struct Script {
    /// Its whole text.
    pub(crate) text: String,
    /// The SHA-1 of the text, in hexadecimal: what `EVALSHA` calls it by.
    pub(crate) sha: String,
    /// Whether one run may be of any number of items, see [`of_items`](Self::of_items).
    items: bool,
}

impl Script {
    pub(crate) fn new(text: String) -> Self {
        let sha = redis::Script::new(&text).get_hash().to_owned();
        let items = false;
        Self { text, sha, items }
    }

    /// A script of items: the first of its `ARGV` is for all of them, and all else is of the one item
    /// or of the other, as many `KEYS` and `ARGV` of each. It answers with a list of one answer for
    /// each, and an item that fails is an error in that list.
    pub(crate) fn of_items(text: String) -> Self {
        Self {
            items: true,
            ..Self::new(text)
        }
    }
}

/// One run of a script, of one item if it is one of items. All its keys are in one slot of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct ScriptCall {
    script: &'static Script,
    /// Its `KEYS`, and then its `ARGV`.
    words: ArgBuffer,
    keys: usize,
}

impl ScriptCall {
    /// A run of this script, with neither keys nor arguments yet, and room for so many words of so
    /// many bytes together. At least one key has to follow.
    pub(crate) fn new(script: &'static Script, words: usize, bytes: usize) -> Self {
        Self {
            script,
            words: ArgBuffer::with_capacity(words, bytes),
            keys: 0,
        }
    }

    /// Adds one of its `KEYS`, before any of its `ARGV`.
    pub(crate) fn key(&mut self, key: &str) {
        self.key_with(|text| text.push_str(key));
    }

    /// The same with what is written to the end of the text.
    pub(crate) fn key_with(&mut self, write: impl FnOnce(&mut String)) {
        debug_assert_eq!(self.keys, self.words.len(), "keys come first");
        self.words.push_with(write);
        self.keys += 1;
    }

    /// Adds one of its `ARGV`.
    pub(crate) fn arg(&mut self, arg: impl Display) {
        // Writing to a text does not fail.
        self.arg_with(|text| _ = write!(text, "{arg}"));
    }

    /// The same with what is written to the end of the text.
    pub(crate) fn arg_with(&mut self, write: impl FnOnce(&mut String)) {
        self.words.push_with(write);
    }

    /// The one by which its server is found.
    pub(crate) fn first_key(&self) -> Option<&str> {
        self.words.iter().next().filter(|_| self.keys > 0)
    }

    /// `KEYS` and `ARGV`.
    #[cfg(test)]
    pub(crate) fn given(&self) -> (Vec<String>, Vec<String>) {
        let mut keys: Vec<_> = self.words.iter().map(str::to_owned).collect();
        let args = keys.split_off(self.keys);
        (keys, args)
    }

    /// As it is sent: with the script's name, or with its whole text.
    pub(crate) fn command(&self, whole: bool) -> Cmd {
        let (name, what) = if whole {
            ("EVAL", &self.script.text)
        } else {
            ("EVALSHA", &self.script.sha)
        };
        // Its name, the script, and how many keys there are.
        let more = name.len() + what.len() + 4;
        let mut command = Cmd::with_capacity(3 + self.words.len(), more + self.words.bytes());
        command.arg(name).arg(what).arg(self.keys);
        for word in self.words.iter() {
            command.arg(word);
        }
        command
    }

    /// Whether it may be one item of a run of several.
    pub(crate) fn is_item(&self) -> bool {
        self.script.items
    }

    /// Whether one run of the script can answer this and that.
    pub(crate) fn joins(&self, other: &Self) -> bool {
        self.is_item()
            && std::ptr::eq(self.script, other.script)
            && (self.keys, self.words.len()) == (other.keys, other.words.len())
            && self.words.get(self.keys) == other.words.get(other.keys)
    }

    /// One run for all of these items, each of which [joins](Self::joins) the first.
    pub(crate) fn together<'a>(calls: impl Iterator<Item = &'a Self> + Clone) -> Option<Cmd> {
        let first = calls.clone().next()?;
        let sum = |of: fn(&Self) -> usize| calls.clone().map(of).sum::<usize>();
        let bytes = sum(|call| call.words.bytes());
        // Its name, the script, and how many keys there are.
        let more = first.script.sha.len() + 16;
        let mut command = Cmd::with_capacity(3 + sum(|call| call.words.len()), more + bytes);
        command.arg("EVALSHA").arg(&first.script.sha);
        command.arg(sum(|call| call.keys));
        let keys = calls
            .clone()
            .flat_map(|call| call.words.iter().take(call.keys));
        keys.for_each(|key| _ = command.arg(key));
        // What is for all of them.
        command.arg(first.words.get(first.keys).unwrap_or_default());
        let own = calls.flat_map(|call| call.words.iter().skip(call.keys + 1));
        own.for_each(|word| _ = command.arg(word));
        Some(command)
    }

    /// What a reply to it alone says: of items, the list's only entry.
    pub(crate) fn reply(&self, reply: Value) -> Value {
        match reply {
            Value::Array(mut answers) if self.is_item() && answers.len() == 1 => {
                answers.pop().unwrap_or(Value::Nil)
            }
            reply => reply,
        }
    }
}

/// Why there is no answer, or none from the script.
#[derive(Clone, Debug)]
pub(crate) enum CallError {
    /// It was certainly not carried out: there was no connection, or the server refused it before
    /// it began (`LOADING`, `BUSY`, `READONLY`, `NOPERM`, `OOM` at the beginning, `TRYAGAIN`, ...).
    /// `code` is the first word of the server's refusal.
    Refused {
        /// The first word of the server's answer, such as `READONLY`; `None` if nothing was sent.
        code: Option<String>,
        /// What is known, fit to be shown; no secrets.
        detail: String,
    },
    /// It may have been carried out: it was sent, and its answer did not come.
    Unanswered(RedisError),
    /// The script ran and ended with this error (our own error replies, `WRONGTYPE`).
    Failed {
        /// The first word.
        code: String,
        /// The rest.
        detail: String,
    },
}

/// What hears of the connection. Nothing here may block.
pub(crate) trait Listener: Send + Sync + 'static {
    /// A message came on the inbox channel.
    fn message(&self, payload: &[u8]);
    /// A connection is lost; messages may be lost from now on.
    fn down(&self);
    /// All is well again, and the inbox is subscribed; messages may have been lost before.
    fn up(&self);
}

/// The answer of a script.
pub(crate) type CallResult = Result<Value, CallError>;
