//! A call of a script, and how it can fail.

use redis::{Cmd, RedisError, Value};

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
    pub(crate) keys: Vec<String>,
    pub(crate) args: Vec<String>,
}

impl ScriptCall {
    /// Creates a call without keys and arguments. At least one key has to be added.
    pub(crate) const fn new(script: &'static Script) -> Self {
        Self {
            script,
            keys: Vec::new(),
            args: Vec::new(),
        }
    }

    /// Adds one of its `KEYS`.
    pub(crate) fn key(&mut self, key: impl Into<String>) {
        self.keys.push(key.into());
    }

    /// Adds one of its `ARGV`.
    pub(crate) fn arg(&mut self, arg: impl ToString) {
        self.args.push(arg.to_string());
    }

    /// The command for one call, or for several calls that [can be
    /// batched](Self::can_batch_with), with the script's hash or with its source.
    pub(crate) fn command<'a>(
        calls: impl Iterator<Item = &'a Self> + Clone,
        with_source: bool,
    ) -> Cmd {
        let mut command = Cmd::new();
        let Some(first) = calls.clone().next() else {
            return command;
        };
        if with_source {
            command.arg("EVAL").arg(&first.script.text);
        } else {
            command.arg("EVALSHA").arg(&first.script.sha);
        }
        command.arg(calls.clone().map(|call| call.keys.len()).sum::<usize>());
        for call in calls.clone() {
            command.arg(&call.keys);
        }
        // The argument that all items share comes once.
        for (index, call) in calls.enumerate() {
            for arg in call.args.iter().skip(usize::from(index > 0)) {
                command.arg(arg);
            }
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
            && (self.keys.len(), self.args.len()) == (other.keys.len(), other.args.len())
            && self.args.first() == other.args.first()
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

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::batchable("return {}".to_owned()));

    fn call(shared: &str, item: &str) -> ScriptCall {
        let mut call = ScriptCall::new(&SCRIPT);
        call.key(item);
        call.arg(shared);
        call.arg(item);
        call
    }

    #[test]
    fn command_of_several_calls_has_their_shared_argument_once() {
        let args = |calls: &[ScriptCall], with_source| {
            let command = ScriptCall::command(calls.iter(), with_source);
            let args = command.args_iter().map(|arg| match arg {
                redis::Arg::Simple(arg) => String::from_utf8_lossy(arg).into_owned(),
                other => panic!("{other:?}"),
            });
            args.collect::<Vec<_>>().join(" ")
        };
        let calls = [call("s", "a"), call("s", "b c")];
        assert!(calls[0].can_batch_with(&calls[1]));
        assert!(!calls[0].can_batch_with(&call("other", "b")));
        let sha = &SCRIPT.sha;
        assert_eq!(
            args(&calls, false),
            format!("EVALSHA {sha} 2 a b c s a b c")
        );
        assert_eq!(args(&calls[..1], true), "EVAL return {} 1 a s a");
    }
}
