//! The core's requests to a driver, and the driver's answers.
//!
//! All types are `#[non_exhaustive]` and have constructors, so that a new field breaks no backend.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::{
    inspection::{Evicted, Holder, List, Listed, LockState, Page, Since, Waiter},
    owner::Owner,
};

use crate::{
    clock::Instant,
    error::{Error, ErrorKind},
    id::AttemptId,
    loss::LossReason,
    mode::Mode,
    name::LockName,
    token::FencingToken,
};

/// A logical time of the store, such as a revision, a transaction id or the server's clock. A
/// larger value is later; the values have no other meaning.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StoreTime(u64);

impl StoreTime {
    /// Creates a time.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A request to put an attempt into a lock's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enqueue {
    /// The lock.
    pub name: LockName,
    /// The attempt. A repeated request for the same attempt has the same answer (A2, T3).
    pub attempt: AttemptId,
    /// The owner that is shown to other clients.
    pub owner: Owner,
    /// How long the store keeps the entry without a renewal. It is within the declared range.
    pub ttl: Duration,
    /// Whether the attempt stays in the queue if the lock is taken.
    pub wait: bool,
    /// What the attempt shares the lock with. The core sends no mode that the backend does not
    /// [declare](crate::capability::Capabilities::modes).
    pub mode: Mode,
    /// Whether an exclusive attempt is the writer of a lock that has readers. A store on which other
    /// programs recognize a writer by its name needs this; it changes nothing about who is granted the
    /// lock.
    pub beside_readers: bool,
}

impl Enqueue {
    /// Creates a request for an exclusive lock.
    #[must_use]
    pub const fn new(
        name: LockName,
        attempt: AttemptId,
        owner: Owner,
        ttl: Duration,
        wait: bool,
    ) -> Self {
        Self {
            name,
            attempt,
            owner,
            ttl,
            wait,
            mode: Mode::Exclusive,
            beside_readers: false,
        }
    }

    /// Sets the mode.
    #[must_use]
    pub const fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets whether the attempt is the writer of a lock that has readers.
    #[must_use]
    pub const fn with_readers(mut self, beside_readers: bool) -> Self {
        self.beside_readers = beside_readers;
        self
    }
}

/// A grant of the lock to an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// The attempt.
    pub attempt: AttemptId,
    /// The fencing token.
    pub token: FencingToken,
    /// The lowest token among the grants of this lock that are alive, itself included (clause M3).
    /// The grant's own token if it is exclusive.
    pub floor: FencingToken,
    /// How long the store keeps the grant without a renewal; not less than the requested TTL.
    pub ttl: Duration,
    /// The store keeps the grant for `ttl`, counted from this moment or a later one. The driver reads
    /// the clock before it hands the request to the store's client.
    ///
    /// `None` for a pushed grant that was not verified since. Such a grant counts from the waiter's
    /// last answered report (D4), and `as_of` must be the time of the grant.
    pub proved_from: Option<Instant>,
    /// The store's time of the grant. Read only if `proved_from` is `None`.
    pub as_of: StoreTime,
}

impl Grant {
    /// Creates an exclusive grant that an answer of the store proves.
    #[must_use]
    pub const fn proved(
        attempt: AttemptId,
        token: FencingToken,
        ttl: Duration,
        proved_from: Instant,
    ) -> Self {
        Self {
            attempt,
            token,
            floor: token,
            ttl,
            proved_from: Some(proved_from),
            as_of: StoreTime::new(0),
        }
    }

    /// Creates an exclusive grant that the store announced by a message.
    #[must_use]
    pub const fn pushed(
        attempt: AttemptId,
        token: FencingToken,
        ttl: Duration,
        as_of: StoreTime,
    ) -> Self {
        Self {
            attempt,
            token,
            floor: token,
            ttl,
            proved_from: None,
            as_of,
        }
    }

    /// Sets the lowest token among the grants that are alive.
    #[must_use]
    pub const fn with_floor(mut self, floor: FencingToken) -> Self {
        self.floor = floor;
        self
    }
}

/// The "still waiting" answer to a waiter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// The store keeps the entry for its TTL, counted from this moment or a later one. The driver
    /// reads the clock before it hands the request to the store's client.
    pub proved_from: Instant,
    /// The store's time of the answer. Only a later push counts (D4).
    pub as_of: StoreTime,
    /// Number of entries ahead, including the holders, if the store reports it.
    pub ahead: Option<u64>,
    /// The holder of the lock, if the store reports it.
    pub holder: Option<Holder>,
    /// The time within which the core must report again. No message announces the next change: a
    /// foreign holder's end, or the expiry of an entry.
    pub recheck: Option<Duration>,
}

impl Waiting {
    /// Creates the answer. Set the fields that the store reports.
    #[must_use]
    pub const fn new(proved_from: Instant, as_of: StoreTime) -> Self {
        Self {
            proved_from,
            as_of,
            ahead: None,
            holder: None,
            recheck: None,
        }
    }

    /// Sets the number of entries ahead.
    #[must_use]
    pub const fn with_ahead(mut self, ahead: u64) -> Self {
        self.ahead = Some(ahead);
        self
    }

    /// Sets the time within which the core must report again.
    #[must_use]
    pub const fn with_recheck(mut self, within: Option<Duration>) -> Self {
        self.recheck = within;
        self
    }

    /// Sets the holder.
    #[must_use]
    pub fn with_holder(mut self, holder: Option<Holder>) -> Self {
        self.holder = holder;
        self
    }
}

/// The answer to [`Enqueue`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Enqueued {
    /// The lock is taken, and the attempt did not ask to wait. It left nothing behind.
    Busy(Holder),
    /// The attempt was removed before this request was executed.
    Gone,
    /// The attempt holds the lock. `proved_from` must be set.
    Granted(Grant),
    /// The attempt is in the queue. An event announces its grant.
    Waiting(Waiting),
}

/// One entry of a batch of renewals and reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Renewal {
    /// The lock.
    pub name: LockName,
    /// The attempt.
    pub attempt: AttemptId,
    /// The attempt's TTL.
    pub ttl: Duration,
    /// The token if, as far as the core knows, the attempt holds the lock; `None` for a waiter.
    pub token: Option<FencingToken>,
    /// The mode in which the attempt holds or waits. [`Mode::Shared`] after a downgrade was sent,
    /// whether it was answered or not.
    pub mode: Mode,
}

impl Renewal {
    /// Creates the entry of an exclusive attempt.
    #[must_use]
    pub const fn new(
        name: LockName,
        attempt: AttemptId,
        ttl: Duration,
        token: Option<FencingToken>,
    ) -> Self {
        Self {
            name,
            attempt,
            ttl,
            token,
            mode: Mode::Exclusive,
        }
    }

    /// Sets the mode.
    #[must_use]
    pub const fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }
}

/// The answer to one [`Renewal`] (clause K4).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Renewed {
    /// The store has no such entry, for this reason as far as it can tell.
    Gone(LossReason),
    /// The attempt holds the lock. This answer to a waiter reveals a lost push. `proved_from` must
    /// be set.
    Granted(Grant),
    /// The attempt holds the lock, and the store keeps the grant for its TTL, counted from `from`.
    Proved {
        /// The moment. The driver reads it before it hands the request to the store's client.
        from: Instant,
    },
    /// The store gave no conclusive answer. The core sends the entry again.
    Unknown(Error),
    /// The attempt is still in the queue.
    Waiting(Waiting),
}

impl Renewed {
    /// The answer to an entry for which the driver sent none.
    pub(crate) fn unanswered() -> Self {
        Self::Unknown(Self::no_answer())
    }

    pub(crate) fn no_answer() -> Error {
        let error = Error::new(ErrorKind::OutcomeUnknown, "renewing");
        error.with_detail("the store gave no answer")
    }
}

/// A request to turn an exclusive grant into a shared one, in one step (clause M4): entry, place and
/// token stay, and the shared waiters right behind it are granted the lock. The core sends it for no grant
/// of permits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Downgrade {
    /// The lock.
    pub name: LockName,
    /// The attempt.
    pub attempt: AttemptId,
    /// The attempt's TTL.
    pub ttl: Duration,
    /// The token of the grant.
    pub token: FencingToken,
}

impl Downgrade {
    /// Creates the request.
    #[must_use]
    pub const fn new(
        name: LockName,
        attempt: AttemptId,
        ttl: Duration,
        token: FencingToken,
    ) -> Self {
        Self {
            name,
            attempt,
            ttl,
            token,
        }
    }
}

/// The answer to [`Downgrade`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Downgraded {
    /// The grant is shared, by this request or by an earlier copy of it.
    Shared,
    /// The store has no grant of this attempt with this token, for this reason as far as it can tell.
    Gone(LossReason),
}

/// A request to remove an attempt, whether it holds or waits. Release, cancellation and clean-up
/// all use this request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Remove {
    /// The lock.
    pub name: LockName,
    /// The attempt.
    pub attempt: AttemptId,
    /// The attempt's TTL.
    pub ttl: Duration,
    /// `false` if an enqueue of this attempt was not answered. The removal must then also fence the
    /// attempt, so that this enqueue has no effect if the store executes it later (A4). Unanswered
    /// renewals do not matter: they create nothing.
    pub outcome_known: bool,
}

impl Remove {
    /// Creates the request.
    #[must_use]
    pub const fn new(
        name: LockName,
        attempt: AttemptId,
        ttl: Duration,
        outcome_known: bool,
    ) -> Self {
        Self {
            name,
            attempt,
            ttl,
            outcome_known,
        }
    }
}

/// The answer to [`Remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Removed {
    /// The store had no entry of this attempt.
    Absent,
    /// The removed entry held the lock.
    AsHolder,
    /// The removed entry was waiting.
    AsWaiter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_label_is_truncated_between_characters() {
        let owner = Owner::new("é".repeat(200), "h", 1);
        assert_eq!(owner.label, "é".repeat(128));
    }
}
