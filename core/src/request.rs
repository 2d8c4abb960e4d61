//! What the core asks of a driver, and what a driver answers.
//!
//! All of these are `#[non_exhaustive]` with constructors, so that a new field breaks no backend.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    clock::Instant, error::Error, id::AttemptId, loss::LossReason, name::LockName,
    token::FencingToken,
};

/// A moment by the store's own reckoning: larger is later, and nothing else is known of it. A
/// revision, a transaction id, or the server's clock.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StoreTime(u64);

impl StoreTime {
    /// That moment.
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

/// Who is shown to others as the holder of a lock or a waiter. Hostile bytes are cut to size, and
/// shown escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Owner {
    /// What the user calls it; may be empty.
    pub label: String,
    /// The host's name.
    pub host: String,
    /// The process's id on that host. For showing, never for deciding.
    pub pid: u32,
}

impl Owner {
    /// The most bytes of a label or host name that are kept.
    pub const MAX_BYTES: usize = 256;

    /// That owner; a text of more than [`Owner::MAX_BYTES`] is cut.
    #[must_use]
    pub fn new(label: impl Into<String>, host: impl Into<String>, pid: u32) -> Self {
        Self {
            label: cut(label.into()),
            host: cut(host.into()),
            pid,
        }
    }
}

fn cut(mut text: String) -> String {
    let end = text.floor_char_boundary_at(Owner::MAX_BYTES);
    text.truncate(end);
    text
}

trait FloorCharBoundary {
    fn floor_char_boundary_at(&self, index: usize) -> usize;
}

impl FloorCharBoundary for String {
    fn floor_char_boundary_at(&self, index: usize) -> usize {
        if self.len() <= index {
            return self.len();
        }
        (0..=index)
            .rev()
            .find(|&at| self.is_char_boundary(at))
            .unwrap_or(0)
    }
}

/// Puts an attempt into a lock's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enqueue {
    /// Which lock.
    pub name: LockName,
    /// The attempt; asking again for the same one gives the same answer (A2, T3).
    pub attempt: AttemptId,
    /// Who is shown to others.
    pub owner: Owner,
    /// How long the store keeps the entry without a renewal. Within the declared range.
    pub ttl: Duration,
    /// Whether to stay in the queue when the lock is taken.
    pub wait: bool,
}

impl Enqueue {
    /// That request.
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
        }
    }
}

/// What the store gave to an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// To which attempt.
    pub attempt: AttemptId,
    /// Its fencing token.
    pub token: FencingToken,
    /// How long the store keeps it without a renewal; not less than what was asked for.
    pub ttl: Duration,
    /// The store keeps it for `ttl` from a moment not before this one. Read before the request
    /// was handed to the store's client.
    ///
    /// `None` for a grant that came by push and was not verified since: then it counts from the
    /// waiter's last answered report (D4), and `as_of` must be the time of the grant.
    pub proved_from: Option<Instant>,
    /// When it was given, by the store's reckoning.
    pub as_of: StoreTime,
}

impl Grant {
    /// A grant that an answer from the store proves.
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
            ttl,
            proved_from: Some(proved_from),
            as_of: StoreTime::new(0),
        }
    }

    /// A grant that the store announced by a message.
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
            ttl,
            proved_from: None,
            as_of,
        }
    }
}

/// Since when somebody is shown (clause A5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Since {
    /// It was enqueued then; when it was granted the store does not tell.
    Enqueued(std::time::SystemTime),
    /// It was granted then.
    Granted(std::time::SystemTime),
}

/// Who has a lock, as far as the store can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Its attempt; `None` for a foreign holder.
    pub attempt: Option<AttemptId>,
    /// Who it says it is; `None` for a foreign holder.
    pub owner: Option<Owner>,
    /// Its fencing token, where the store tells one.
    pub token: Option<FencingToken>,
    /// Since when, by a wall clock that need not be ours.
    pub since: Option<Since>,
    /// An upper bound of the time until its grant lapses unless it renews.
    pub expires_in: Option<Duration>,
    /// Its TTL, where the store tells one.
    pub ttl: Option<Duration>,
}

impl Holder {
    /// A holder of ours. Fill in what the store tells.
    #[must_use]
    pub fn new(attempt: AttemptId, owner: Owner) -> Self {
        Self {
            attempt: Some(attempt),
            owner: Some(owner),
            ..Self::default()
        }
    }

    /// A program that uses the store without this framework. Fill in what the store tells.
    #[must_use]
    pub fn foreign() -> Self {
        Self::default()
    }

    /// Sets the token.
    #[must_use]
    pub const fn with_token(mut self, token: FencingToken) -> Self {
        self.token = Some(token);
        self
    }

    /// Sets since when.
    #[must_use]
    pub const fn with_since(mut self, since: Since) -> Self {
        self.since = Some(since);
        self
    }

    /// Sets the upper bound of the time left.
    #[must_use]
    pub const fn with_expires_in(mut self, left: Option<Duration>) -> Self {
        self.expires_in = left;
        self
    }

    /// Sets the TTL.
    #[must_use]
    pub const fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// The answer to a waiter: not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// The store keeps the entry for its TTL from a moment not before this one. Read before the
    /// request was handed to the store's client.
    pub proved_from: Instant,
    /// When the store answered, by its own reckoning; a push must be later to count (D4).
    pub as_of: StoreTime,
    /// How many entries are ahead, the holder included, where the store tells.
    pub ahead: Option<u64>,
    /// Who has the lock, where the store tells.
    pub holder: Option<Holder>,
    /// Ask again within this time, because nobody will send word of what happens then: a foreign
    /// holder's end, or an entry's that has been silent for its TTL.
    pub recheck: Option<Duration>,
}

impl Waiting {
    /// That answer. Fill in what the store tells.
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

    /// Sets how many entries are ahead.
    #[must_use]
    pub const fn with_ahead(mut self, ahead: u64) -> Self {
        self.ahead = Some(ahead);
        self
    }

    /// Sets when to ask again.
    #[must_use]
    pub const fn with_recheck(mut self, within: Option<Duration>) -> Self {
        self.recheck = within;
        self
    }

    /// Sets who has the lock.
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
    /// Taken, and the attempt did not want to wait. Nothing of it is left behind.
    Busy(Holder),
    /// The attempt was removed before this request was carried out.
    Gone,
    /// The attempt holds the lock. `proved_from` must be set.
    Granted(Grant),
    /// The attempt is in the queue. Word of its turn comes as an event.
    Waiting(Waiting),
}

/// One entry of a batch of renewals and reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Renewal {
    /// Which lock.
    pub name: LockName,
    /// Which attempt.
    pub attempt: AttemptId,
    /// Its TTL.
    pub ttl: Duration,
    /// The token, if the core believes that the attempt holds the lock; `None` for a waiter.
    pub token: Option<FencingToken>,
}

impl Renewal {
    /// That entry.
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
        }
    }
}

/// The answer to one [`Renewal`] (clause K4).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Renewed {
    /// The store has no such entry, and why, as far as it can tell.
    Gone(LossReason),
    /// The attempt holds the lock; for a waiter this is how a lost push is found. `proved_from`
    /// must be set.
    Granted(Grant),
    /// The attempt holds the lock, and the store keeps it for its TTL from there.
    Proved {
        /// Read before the request was handed to the store's client.
        from: Instant,
    },
    /// No answer, or not one from which anything follows. It is asked again.
    Unknown(Error),
    /// Still in the queue.
    Waiting(Waiting),
}

/// Takes an attempt out of a lock, whether it holds or waits. Release, cancellation and clean-up
/// are all this one request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Remove {
    /// Which lock.
    pub name: LockName,
    /// Which attempt.
    pub attempt: AttemptId,
    /// The attempt's TTL.
    pub ttl: Duration,
    /// `false` if an enqueue of this attempt was not answered: then the removal must also fence the
    /// attempt off, so that this enqueue has no effect should it be carried out later (A4).
    /// Unanswered renewals do not count: they create nothing.
    pub outcome_known: bool,
}

impl Remove {
    /// That request.
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
    /// The store had no entry of that attempt.
    Absent,
    /// It held the lock.
    AsHolder,
    /// It waited.
    AsWaiter,
}

/// One who waits, as [`LockState`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiter {
    /// Its attempt; `None` for a foreign one.
    pub attempt: Option<AttemptId>,
    /// Who it says it is; `None` for a foreign one.
    pub owner: Option<Owner>,
    /// Since when it waits, by a wall clock that need not be ours.
    pub since: Option<std::time::SystemTime>,
}

impl Waiter {
    /// That waiter.
    #[must_use]
    pub const fn new(
        attempt: Option<AttemptId>,
        owner: Option<Owner>,
        since: Option<std::time::SystemTime>,
    ) -> Self {
        Self {
            attempt,
            owner,
            since,
        }
    }
}

/// A lock as it is now (clause I1).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockState {
    /// Which lock.
    pub name: LockName,
    /// Who has it.
    pub holder: Option<Holder>,
    /// Who waits, in the order of their turns.
    pub queue: Vec<Waiter>,
}

impl LockState {
    /// That state.
    #[must_use]
    pub const fn new(name: LockName, holder: Option<Holder>, queue: Vec<Waiter>) -> Self {
        Self {
            name,
            holder,
            queue,
        }
    }
}

/// Asks for a page of the locks that are held or waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct List {
    /// Only names that begin so; empty for all.
    pub prefix: String,
    /// Where the last page ended; `None` for the first page.
    pub cursor: Option<String>,
    /// About how many entries a page should have, at least 1.
    pub limit: usize,
}

impl List {
    /// The first page.
    #[must_use]
    pub fn new(prefix: impl Into<String>, limit: usize) -> Self {
        Self {
            prefix: prefix.into(),
            cursor: None,
            limit: limit.max(1),
        }
    }

    /// The page that begins at a cursor.
    #[must_use]
    pub fn at(mut self, cursor: Option<String>) -> Self {
        self.cursor = cursor;
        self
    }
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The locks. No order is promised.
    pub locks: Vec<Listed>,
    /// Where the next page begins; `None` after the last one. A page may be empty before that.
    pub next: Option<String>,
}

impl Page {
    /// That page.
    #[must_use]
    pub const fn new(locks: Vec<Listed>, next: Option<String>) -> Self {
        Self { locks, next }
    }
}

/// One lock of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// Its name, as it was given.
    pub name: LockName,
    /// Who has it.
    pub holder: Option<Holder>,
    /// How many wait.
    pub waiters: u64,
}

impl Listed {
    /// That line.
    #[must_use]
    pub const fn new(name: LockName, holder: Option<Holder>, waiters: u64) -> Self {
        Self {
            name,
            holder,
            waiters,
        }
    }
}

/// The answer to an eviction (clause I2).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evicted {
    /// The grant was taken away. Its holder's work goes on until it hears of it.
    Evicted,
    /// No grant has that token; this is who has the lock now.
    NotHeld(Option<Holder>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_label_is_cut_between_characters() {
        let owner = Owner::new("é".repeat(200), "h", 1);
        assert_eq!(owner.label, "é".repeat(128));
    }
}
