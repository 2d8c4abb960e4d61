//! The messages between the client and the server of the example: one JSON object per line.

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
pub(crate) struct ClientRequest {
    /// The number of the request, which the response repeats.
    pub(crate) id: u64,
    /// The client.
    pub(crate) session: Session,
    /// The lock; for a listing, the name after which it begins.
    pub(crate) name: String,
    /// The operation.
    pub(crate) operation: Operation,
}

/// The part of a request that is the same for all requests of a client.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The password of the server.
    pub(crate) password: String,
    /// The client, which receives the notices about its attempts.
    pub(crate) client: ClientId,
    /// The smallest token that the server may grant.
    pub(crate) token_floor: u64,
    /// The namespace of the locks.
    pub(crate) namespace: String,
}

/// An operation on a lock.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Operation {
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
    Inspect,
    List {
        prefix: String,
        limit: usize,
    },
}

/// A message of the server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ServerMessage {
    /// The response to a request.
    Response {
        /// The number of the request.
        id: u64,
        /// The outcome of the request.
        outcome: Outcome,
        /// The requested locks.
        locks: Vec<(String, Queue)>,
        /// The server's clock.
        now: Duration,
        /// The number of operations of the server so far.
        as_of: u64,
    },
    /// A notice that an attempt was granted.
    Granted {
        /// The attempt.
        attempt: AttemptId,
        /// Its token.
        token: FencingToken,
        /// Its TTL.
        ttl: Duration,
        /// The number of operations of the server so far.
        as_of: u64,
    },
    /// A notice that an attempt was lost.
    Lost {
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        reason: LossReason,
    },
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The password is wrong; nothing was done.
    Refused,
    /// The attempt holds the lock.
    Granted(FencingToken),
    /// The attempt waits; this is the number of attempts ahead of it.
    Waiting(u64),
    /// The lock is taken, and the attempt does not wait.
    Busy,
    /// The attempt does not exist, for this reason.
    Gone(LossReason),
    /// The holder was removed.
    RemovedHolder,
    /// A waiter was removed.
    RemovedWaiter,
    /// The grant was evicted.
    Evicted,
    /// The request changed nothing.
    Nothing,
}
