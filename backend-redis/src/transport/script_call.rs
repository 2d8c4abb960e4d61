//! A call of a script, and how it can fail.

use std::fmt::{Display, Write};

use redis::{Cmd, RedisError, Value};

use super::arg_buffer::ArgBuffer;

/// A script that runs on the server.
#[derive(Debug)]
pub(crate) struct Script {
    /// The source.
    pub(crate) text: String,
    /// The hexadecimal SHA-1 of the source, which `EVALSHA` takes.
    pub(crate) sha: String,
    /// Whether one run may handle several items, see [`batchable`](Self::batchable).
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

    /// A script that handles any number of items in one run. The first `ARGV` is shared by all
    /// items; each item has the same number of the other `KEYS` and `ARGV`. The script returns a
    /// list with one reply per item, in which the reply of a failed item is an error.
    pub(crate) fn batchable(text: String) -> Self {
        Self {
            batchable: true,
            ..Self::new(text)
        }
    }
}

/// One call of a script, with one item if the script is batchable. All its keys are in one slot of
/// a cluster.
#[derive(Clone, Debug)]
pub(crate) struct ScriptCall {
    script: &'static Script,
    /// The `KEYS`, followed by the `ARGV`.
    args: ArgBuffer,
    key_count: usize,
}

impl ScriptCall {
    /// Creates a call without keys and arguments, with room for `args` of them of `bytes` bytes in
    /// total. At least one key has to be added.
    pub(crate) fn new(script: &'static Script, args: usize, bytes: usize) -> Self {
        Self {
            script,
            args: ArgBuffer::with_capacity(args, bytes),
            key_count: 0,
        }
    }

    /// Adds one of its `KEYS`. All keys have to be added before the first argument.
    pub(crate) fn key(&mut self, key: &str) {
        self.key_with(|text| text.push_str(key));
    }

    /// Like [`key`](Self::key), with the text that `write` appends.
    pub(crate) fn key_with(&mut self, write: impl FnOnce(&mut String)) {
        debug_assert_eq!(
            self.key_count,
            self.args.len(),
            "keys have to be added before arguments"
        );
        self.args.push_with(write);
        self.key_count += 1;
    }

    /// Adds one of its `ARGV`.
    pub(crate) fn arg(&mut self, arg: impl Display) {
        // Writing to a `String` does not fail.
        self.arg_with(|text| _ = write!(text, "{arg}"));
    }

    /// Like [`arg`](Self::arg), with the text that `write` appends.
    pub(crate) fn arg_with(&mut self, write: impl FnOnce(&mut String)) {
        self.args.push_with(write);
    }

    /// The key that determines the server.
    pub(crate) fn first_key(&self) -> Option<&str> {
        self.args.iter().next().filter(|_| self.key_count > 0)
    }

    /// The `KEYS` and the `ARGV`.
    #[cfg(test)]
    pub(crate) fn keys_and_args(&self) -> (Vec<String>, Vec<String>) {
        let mut keys: Vec<_> = self.args.iter().map(str::to_owned).collect();
        let args = keys.split_off(self.key_count);
        (keys, args)
    }

    /// The command for one call, or for several calls that [can be
    /// batched](Self::can_batch_with), with the script's hash or with its source.
    pub(crate) fn command<'a>(
        calls: impl Iterator<Item = &'a Self> + Clone,
        with_source: bool,
    ) -> Cmd {
        let sum = |of: fn(&Self) -> usize| calls.clone().map(of).sum::<usize>();
        let bytes = sum(|call| call.args.bytes());
        let mut command = Cmd::with_capacity(3 + sum(|call| call.args.len()), bytes + 64);
        let Some(first) = calls.clone().next() else {
            return command;
        };
        if with_source {
            command.arg("EVAL").arg(&first.script.text);
        } else {
            command.arg("EVALSHA").arg(&first.script.sha);
        }
        command.arg(sum(|call| call.key_count));
        for call in calls.clone() {
            call.args
                .iter()
                .take(call.key_count)
                .for_each(|key| _ = command.arg(key));
        }
        // The argument that all items share comes once.
        for (index, call) in calls.enumerate() {
            let skip = call.key_count + usize::from(index > 0);
            call.args
                .iter()
                .skip(skip)
                .for_each(|arg| _ = command.arg(arg));
        }
        command
    }

    /// Whether the call may be one item of a run with several items.
    pub(crate) fn is_batchable(&self) -> bool {
        self.script.batchable
    }

    /// Whether one run of the script can handle both calls.
    pub(crate) fn can_batch_with(&self, other: &Self) -> bool {
        self.is_batchable()
            && std::ptr::eq(self.script, other.script)
            && (self.key_count, self.args.len()) == (other.key_count, other.args.len())
            && self.args.get(self.key_count) == other.args.get(other.key_count)
    }

    /// The reply to this call when it was sent alone. For a batchable script that is the only
    /// element of the list.
    pub(crate) fn unwrap_reply(&self, reply: Value) -> Value {
        match reply {
            Value::Array(mut answers) if self.is_batchable() && answers.len() == 1 => {
                answers.pop().unwrap_or(Value::Nil)
            }
            reply => reply,
        }
    }
}

/// Why a call has no result.
#[derive(Clone, Debug)]
pub(crate) enum CallError {
    /// The call was certainly not executed: there was no connection, or the server rejected it
    /// before it began (`LOADING`, `BUSY`, `READONLY`, `NOPERM`, `OOM` at the beginning,
    /// `TRYAGAIN`, ...).
    NotExecuted {
        /// The first word of the server's error, such as `READONLY`; `None` if nothing was sent.
        code: Option<String>,
        /// The details for the user; contains no secrets.
        detail: String,
    },
    /// The call may have been executed: it was sent, and no reply arrived.
    OutcomeUnknown(RedisError),
    /// The script ran and ended with this error (one of this project's error codes, or
    /// `WRONGTYPE`).
    ScriptFailed {
        /// The first word of the error.
        code: String,
        /// The rest of the error.
        detail: String,
    },
}

impl CallError {
    /// The error for a call that was not sent.
    pub(super) fn not_sent(reason: impl Into<String>) -> Self {
        Self::NotExecuted {
            code: None,
            detail: reason.into(),
        }
    }

    /// The error for a call that never received a result: its outcome is unknown.
    pub(crate) fn no_reply() -> Self {
        Self::OutcomeUnknown((redis::ErrorKind::Client, "no reply arrived").into())
    }
}

impl From<RedisError> for CallError {
    fn from(error: RedisError) -> Self {
        Self::OutcomeUnknown(error)
    }
}

/// Receives messages and connection changes. The methods must not block.
pub(crate) trait Listener: Send + Sync + 'static {
    /// A message arrived on the inbox channel.
    fn on_message(&self, payload: &[u8]);
    /// A connection was lost; messages may be lost from now on.
    fn on_disconnected(&self);
    /// All connections are back and the inbox is subscribed; messages may have been lost before.
    fn on_reconnected(&self);
}

/// The result of a script call.
pub(crate) type CallResult = Result<Value, CallError>;
