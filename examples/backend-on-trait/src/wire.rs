//! What client and server of the example say to each other: one JSON object per line.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tenure::{
    id::{AttemptId, ClientId},
    loss::LossReason,
    queue::Queue,
    request::Owner,
    token::FencingToken,
};

/// A request.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ask {
    /// Repeated in the answer.
    pub(crate) id: u64,
    /// Who asks.
    pub(crate) asker: Asker,
    /// About which lock; for a listing, after which one to begin.
    pub(crate) name: String,
    /// What to do.
    pub(crate) verb: Verb,
}

/// Who asks, and in what way.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Asker {
    /// What the server wants to hear before it does anything.
    pub(crate) password: String,
    /// Where messages go.
    pub(crate) client: ClientId,
    /// Tokens must be at least this.
    pub(crate) token_floor: u64,
    /// In which namespace.
    pub(crate) namespace: String,
}

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Verb {
    Enqueue {
        attempt: AttemptId,
        owner: Owner,
        ttl: Duration,
        wait: bool,
    },
    Renew {
        attempt: AttemptId,
    },
    Remove {
        attempt: AttemptId,
        fence: Option<Duration>,
    },
    Evict {
        token: FencingToken,
    },
    Look,
    List {
        prefix: String,
        limit: usize,
    },
}

/// What the server says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Say {
    /// The answer to a request.
    Answer {
        /// Whose.
        id: u64,
        /// What it came to, where the locks do not tell.
        done: Done,
        /// The locks that were asked for, as they are now.
        locks: Vec<(String, Queue)>,
        /// The server's clock.
        now: Duration,
        /// Counts what the server does.
        as_of: u64,
    },
    /// Word of an attempt's grant.
    Granted {
        /// Whose.
        attempt: AttemptId,
        /// Its token.
        token: FencingToken,
        /// Its TTL.
        ttl: Duration,
        /// Counts what the server does.
        as_of: u64,
    },
    /// Word of an attempt's loss.
    Lost {
        /// Whose.
        attempt: AttemptId,
        /// Why.
        reason: LossReason,
    },
}

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Done {
    /// The password is wrong; nothing was done.
    Refused,
    /// The attempt holds the lock.
    Granted(FencingToken),
    /// The attempt waits, behind so many.
    Waiting(u64),
    /// The lock is taken, and the attempt did not want to wait.
    Busy,
    /// There is no such attempt, and why, as far as the server can tell.
    Gone(LossReason),
    /// The holder was removed.
    RemovedHolder,
    /// A waiter was removed.
    RemovedWaiter,
    /// The grant was evicted.
    Evicted,
    /// Nothing was changed.
    Nothing,
}
