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
    /// Whether one run may be of any number of items, see [`batchable`](Self::of_items).
    batchable: bool,
}

impl Script {
    pub(crate) fn new(text: String) -> Self {
        let sha = redis::Script::new(&text).get_hash().to_owned();
        let batchable = false;
        Self {
            text,
            sha,
            batchable,
        }
    }

    /// A script of items: the first of its `ARGV` is for all of them, and all else is of the one item
    /// or of the other, as many `KEYS` and `ARGV` of each. It answers with a list of one answer for
    /// each, and an item that fails is an error in that list.
    pub(crate) fn batchable(text: String) -> Self {
        Self {
            batchable: true,
            ..Self::new(text)
        }
    }
}

/// One run of a script, of one item if it is one of items. All its keys are in one slot of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct ScriptCall {
    script: &'static Script,
    /// Its `KEYS`, and then its `ARGV`.
    args: ArgBuffer,
    key_count: usize,
}

impl ScriptCall {
    /// A run of this script, with neither keys nor arguments yet, and room for so many words of so
    /// many bytes together. At least one key has to follow.
    pub(crate) fn new(script: &'static Script, args: usize, bytes: usize) -> Self {
        Self {
            script,
            args: ArgBuffer::with_capacity(args, bytes),
            key_count: 0,
        }
    }

    /// Adds one of its `KEYS`, before any of its `ARGV`.
    pub(crate) fn key(&mut self, key: &str) {
        self.key_with(|text| text.push_str(key));
    }

    /// The same with what is written to the end of the text.
    pub(crate) fn key_with(&mut self, write: impl FnOnce(&mut String)) {
        debug_assert_eq!(self.key_count, self.args.len(), "keys come first");
        self.args.push_with(write);
        self.key_count += 1;
    }

    /// Adds one of its `ARGV`.
    pub(crate) fn arg(&mut self, arg: impl Display) {
        // Writing to a text does not fail.
        self.arg_with(|text| _ = write!(text, "{arg}"));
    }

    /// The same with what is written to the end of the text.
    pub(crate) fn arg_with(&mut self, write: impl FnOnce(&mut String)) {
        self.args.push_with(write);
    }

    /// The one by which its server is found.
    pub(crate) fn first_key(&self) -> Option<&str> {
        self.args.iter().next().filter(|_| self.key_count > 0)
    }

    /// `KEYS` and `ARGV`.
    #[cfg(test)]
    pub(crate) fn keys_and_args(&self) -> (Vec<String>, Vec<String>) {
        let mut keys: Vec<_> = self.args.iter().map(str::to_owned).collect();
        let args = keys.split_off(self.key_count);
        (keys, args)
    }

    /// As it is sent: with the script's name, or with its whole text.
    pub(crate) fn command(&self, with_source: bool) -> Cmd {
        let (name, script) = if with_source {
            ("EVAL", &self.script.text)
        } else {
            ("EVALSHA", &self.script.sha)
        };
        // Its name, the script, and how many keys there are.
        let overhead = name.len() + script.len() + 4;
        let mut command = Cmd::with_capacity(3 + self.args.len(), overhead + self.args.bytes());
        command.arg(name).arg(script).arg(self.key_count);
        for arg in self.args.iter() {
            command.arg(arg);
        }
        command
    }

    /// Whether it may be one item of a run of several.
    pub(crate) fn is_batchable(&self) -> bool {
        self.script.batchable
    }

    /// Whether one run of the script can answer this and that.
    pub(crate) fn can_batch_with(&self, other: &Self) -> bool {
        self.is_batchable()
            && std::ptr::eq(self.script, other.script)
            && (self.key_count, self.args.len()) == (other.key_count, other.args.len())
            && self.args.get(self.key_count) == other.args.get(other.key_count)
    }

    /// One run for all of these items, each of which [joins](Self::joins) the first.
    pub(crate) fn batch_command<'a>(calls: impl Iterator<Item = &'a Self> + Clone) -> Option<Cmd> {
        let first = calls.clone().next()?;
        let sum = |of: fn(&Self) -> usize| calls.clone().map(of).sum::<usize>();
        let bytes = sum(|call| call.args.bytes());
        // Its name, the script, and how many keys there are.
        let overhead = first.script.sha.len() + 16;
        let mut command = Cmd::with_capacity(3 + sum(|call| call.args.len()), overhead + bytes);
        command.arg("EVALSHA").arg(&first.script.sha);
        command.arg(sum(|call| call.key_count));
        let keys = calls
            .clone()
            .flat_map(|call| call.args.iter().take(call.key_count));
        keys.for_each(|key| _ = command.arg(key));
        // What is for all of them.
        command.arg(first.args.get(first.key_count).unwrap_or_default());
        let per_call = calls.flat_map(|call| call.args.iter().skip(call.key_count + 1));
        per_call.for_each(|arg| _ = command.arg(arg));
        Some(command)
    }

    /// What a reply to it alone says: of items, the list's only entry.
    pub(crate) fn unwrap_reply(&self, reply: Value) -> Value {
        match reply {
            Value::Array(mut answers) if self.is_batchable() && answers.len() == 1 => {
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
    NotExecuted {
        /// The first word of the server's answer, such as `READONLY`; `None` if nothing was sent.
        code: Option<String>,
        /// What is known, fit to be shown; no secrets.
        detail: String,
    },
    /// It may have been carried out: it was sent, and its answer did not come.
    OutcomeUnknown(RedisError),
    /// The script ran and ended with this error (our own error replies, `WRONGTYPE`).
    ScriptFailed {
        /// The first word.
        code: String,
        /// The rest.
        detail: String,
    },
}

/// What hears of the connection. Nothing here may block.
pub(crate) trait Listener: Send + Sync + 'static {
    /// A message came on the inbox channel.
    fn on_message(&self, payload: &[u8]);
    /// A connection is lost; messages may be lost from now on.
    fn on_disconnected(&self);
    /// All is well again, and the inbox is subscribed; messages may have been lost before.
    fn on_reconnected(&self);
}

/// The answer of a script.
pub(crate) type CallResult = Result<Value, CallError>;
