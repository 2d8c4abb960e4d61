//! What is asked of a server, and how it can fail.

use redis::{RedisError, Value};

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
    /// What runs.
    pub(crate) script: &'static Script,
    /// Its `KEYS`; at least one.
    pub(crate) keys: Vec<String>,
    /// Its `ARGV`.
    pub(crate) args: Vec<String>,
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
