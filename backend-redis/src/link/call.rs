//! What is asked of a server, and how it can fail.

use std::fmt::{Display, Write};

use redis::{Cmd, RedisError, Value};

use super::words::Words;

/// A script that runs on the server.
#[derive(Debug)]
pub(crate) struct Script {
    /// Its whole text.
    pub(crate) text: String,
    /// The SHA-1 of the text, in hexadecimal: what `EVALSHA` calls it by.
    pub(crate) sha: String,
}

impl Script {
    pub(crate) fn new(text: String) -> Self {
        let sha = redis::Script::new(&text).get_hash().to_owned();
        Self { text, sha }
    }
}

/// One run of a script. All its keys are in one slot of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    script: &'static Script,
    /// Its `KEYS`, and then its `ARGV`.
    words: Words,
    keys: usize,
}

impl Call {
    /// A run of this script, with neither keys nor arguments yet, and room for so many words of so
    /// many bytes together. At least one key has to follow.
    pub(crate) fn new(script: &'static Script, words: usize, bytes: usize) -> Self {
        Self {
            script,
            words: Words::with_capacity(words, bytes),
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
}

/// Why there is no answer, or none from the script.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
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
pub(crate) type Answer = Result<Value, Fault>;
