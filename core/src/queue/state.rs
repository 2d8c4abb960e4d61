//! The state of the queue, as a store keeps it.

use std::{collections::VecDeque, fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    id::{AttemptId, ClientId},
    mode::{Mode, Occupancy},
    request::Owner,
    token::FencingToken,
};

/// The identity of the clock that made a stamp. Two stamps are comparable only if they have the
/// same clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClockId(u128);

impl ClockId {
    /// Creates an identity from a number.
    #[must_use]
    pub const fn new(id: u128) -> Self {
        Self(id)
    }

    /// Returns the number.
    pub(crate) const fn as_u128(self) -> u128 {
        self.0
    }
}

impl Serialize for ClockId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", self.0))
    }
}

impl<'de> Deserialize<'de> for ClockId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ClientId::deserialize(deserializer).map(|id| Self(id.as_u128()))
    }
}

/// A moment and the clock that read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Stamp {
    /// The clock.
    pub clock: ClockId,
    /// The time since the clock's origin.
    #[serde(with = "nanos")]
    pub at: Duration,
}

impl Stamp {
    /// Creates a stamp.
    #[must_use]
    pub const fn new(clock: ClockId, at: Duration) -> Self {
        Self { clock, at }
    }

    /// Returns whether `ttl` has passed since this stamp. Always `false` if `now` was read by a
    /// different clock.
    #[must_use]
    pub fn is_older_than(&self, ttl: Duration, now: &Now) -> bool {
        self.clock == now.stamp.clock && now.stamp.at >= self.at.saturating_add(ttl)
    }
}

/// The time of an event, and the minimum value of the next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Now {
    /// The time on the clock that determines expiry.
    pub stamp: Stamp,
    /// The wall-clock time in microseconds since 1970. For display, and for fences that another
    /// clock stamped; no grant depends on it.
    pub wall_us: u64,
    /// The minimum value of the next token. If the store's state can be deleted by hand, the wall
    /// clock in microseconds keeps tokens increasing (T1).
    pub token_floor: u64,
}

impl Now {
    /// Creates a time.
    #[must_use]
    pub const fn new(stamp: Stamp, wall_us: u64, token_floor: u64) -> Self {
        Self {
            stamp,
            wall_us,
            token_floor,
        }
    }
}

/// The grant of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct GrantRecord {
    /// The fencing token.
    pub token: FencingToken,
    /// The wall-clock time of the grant, in microseconds since 1970.
    pub granted_at_us: u64,
}

/// The entry of one attempt in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Entry {
    /// The attempt.
    pub attempt: AttemptId,
    /// The client that receives notices about it.
    pub client: ClientId,
    /// The owner that is shown to other clients.
    pub owner: Owner,
    /// The lifetime of the entry without a renewal.
    #[serde(with = "nanos")]
    pub ttl: Duration,
    /// When the entry was created or last renewed.
    pub refreshed: Stamp,
    /// Number of renewals.
    pub beat: u64,
    /// The wall-clock time of its creation, in microseconds since 1970.
    pub enqueued_at_us: u64,
    /// The grant, if the entry holds the lock.
    pub grant: Option<GrantRecord>,
    /// What the attempt shares the lock with. Not written if it is exclusive, so that clients without
    /// modes read the state of exclusive locks (S3).
    #[serde(default, skip_serializing_if = "Mode::is_exclusive")]
    pub mode: Mode,
}

impl Entry {
    /// Returns whether its TTL has passed, as far as the clock of `now` can tell.
    #[must_use]
    pub fn has_lapsed(&self, now: &Now) -> bool {
        self.refreshed.is_older_than(self.ttl, now)
    }

    /// Returns the time until it expires; `None` if another clock stamped it.
    #[must_use]
    pub fn expires_in(&self, now: &Now) -> Option<Duration> {
        (self.refreshed.clock == now.stamp.clock).then(|| {
            self.refreshed
                .at
                .saturating_add(self.ttl)
                .saturating_sub(now.stamp.at)
        })
    }
}

/// A fence: an attempt whose requests are rejected, because one may arrive after its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Fenced {
    /// The attempt.
    pub attempt: AttemptId,
    /// When the fence was created.
    pub since: Stamp,
    /// The wall-clock time of its creation, in microseconds since 1970.
    pub wall_us: u64,
    /// How long the fence lasts.
    #[serde(with = "nanos")]
    pub ttl: Duration,
}

impl Fenced {
    /// Returns whether the fence has expired.
    ///
    /// If another clock stamped it (an earlier boot, another host), the wall clock decides.
    /// Otherwise such a fence would never end, and a request that arrives after it expires anyway.
    #[must_use]
    pub fn has_served(&self, now: &Now) -> bool {
        if self.since.clock == now.stamp.clock {
            return self.since.is_older_than(self.ttl, now);
        }
        u128::from(now.wall_us.abs_diff(self.wall_us)) >= self.ttl.as_micros()
    }
}

/// How a grant ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ending {
    /// The grant was evicted.
    Evicted,
    /// The grant expired.
    Expired,
    /// The attempt was removed by its client.
    Released,
}

/// The grant that ended last, kept to tell its owner the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Ended {
    /// The attempt that held the grant.
    pub attempt: AttemptId,
    /// How the grant ended.
    pub ending: Ending,
}

/// The whole state of one lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    pub(super) last_token: u64,
    pub(super) entries: VecDeque<Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) fenced: Vec<Fenced>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<Ended>,
}

/// The state of one lock without its entries. The compare-and-swap adapter stores each entry by
/// itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueueSummary {
    last_token: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fenced: Vec<Fenced>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
}

/// The defect of a state that was read from a store (clause S2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

impl Queue {
    /// Creates the queue of a lock that was never held.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins a summary and entries that were stored separately. [`Queue::validate`] checks the
    /// result.
    pub(crate) fn from_parts(summary: QueueSummary, entries: Vec<Entry>) -> Self {
        Self {
            last_token: summary.last_token,
            entries: entries.into(),
            fenced: summary.fenced,
            ended: summary.ended,
        }
    }

    /// Returns the state without the entries.
    pub(crate) fn summary(&self) -> QueueSummary {
        QueueSummary {
            last_token: self.last_token,
            fenced: self.fenced.clone(),
            ended: self.ended,
        }
    }

    /// Returns the entry that holds the lock. If several hold it, the one that was granted it first.
    #[must_use]
    pub fn holder(&self) -> Option<&Entry> {
        self.holders().next()
    }

    /// Returns the entries that hold the lock, in the order of their grants.
    pub fn holders(&self) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .take_while(|entry| entry.grant.is_some())
    }

    /// Returns the lowest token among the grants (clause M3); `None` if there is none.
    #[must_use]
    pub fn floor(&self) -> Option<FencingToken> {
        // Tokens rise in the order of the queue.
        Some(self.holder()?.grant?.token)
    }

    /// Returns whether every entry is exclusive, so that clients without modes can read the state.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        self.entries.iter().all(|entry| entry.mode.is_exclusive())
    }

    /// Returns whether an event at `now` would remove entries that have lapsed.
    #[must_use]
    pub fn has_lapsed_entries(&self, now: &Now) -> bool {
        let blocking = self.holders().count()
            + usize::from(
                self.holder()
                    .is_some_and(|holder| !holder.mode.is_exclusive()),
            );
        self.entries
            .iter()
            .take(blocking)
            .any(|entry| entry.has_lapsed(now))
    }

    /// Returns all entries: first the holders, then the waiters in order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.iter()
    }

    /// Returns the entry of an attempt.
    #[must_use]
    pub fn entry(&self, attempt: AttemptId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.attempt == attempt)
    }

    /// Returns the highest granted token; zero if there was no grant.
    #[must_use]
    pub const fn last_token(&self) -> FencingToken {
        FencingToken::new(self.last_token)
    }

    /// Returns whether only fencing state is left (clause R4).
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns whether a store that keeps its tokens elsewhere can delete this state: the lock has
    /// no holder, no waiter and no unexpired fence.
    #[must_use]
    pub fn is_blank(&self, now: &Now) -> bool {
        self.entries.is_empty() && self.fenced.iter().all(|fenced| fenced.has_served(now))
    }

    /// Rejects a state that no sequence of events can produce. Call it after reading the state from
    /// a store.
    ///
    /// # Errors
    ///
    /// [`Malformed`] with the defect.
    pub fn validate(&self) -> Result<(), Malformed> {
        if self.last_token > FencingToken::MAX.get() {
            return Err(Malformed("its last token is out of range"));
        }
        // Every read of a state does this. Sorting needs one allocation and no hashing.
        let mut attempts: Vec<_> = self.entries.iter().map(|entry| entry.attempt).collect();
        attempts.sort_unstable();
        if attempts.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Malformed("an attempt has two entries"));
        }
        let mut occupancy = Occupancy::Free;
        let mut token = FencingToken::new(0);
        let mut waiting = self.entries.iter();
        let mut first_waiter = None;
        for entry in waiting.by_ref() {
            if !entry.mode.is_valid() {
                return Err(Malformed("its number of permits is out of range"));
            }
            let Some(grant) = entry.grant else {
                first_waiter = Some(entry);
                break;
            };
            if !occupancy.admits(entry.mode) {
                return Err(Malformed(
                    "two entries hold the lock that exclude each other",
                ));
            }
            occupancy.add(entry.mode);
            if grant.token.get() > self.last_token {
                return Err(Malformed(
                    "the holder's token is greater than the last granted one",
                ));
            }
            if grant.token <= token {
                return Err(Malformed("the tokens of the holders do not rise"));
            }
            token = grant.token;
        }
        if first_waiter.is_some_and(|entry| occupancy.admits(entry.mode)) {
            return Err(Malformed("an entry waits although nothing blocks it"));
        }
        for entry in waiting {
            if !entry.mode.is_valid() {
                return Err(Malformed("its number of permits is out of range"));
            }
            if entry.grant.is_some() {
                return Err(Malformed("an entry holds the lock behind one that waits"));
            }
        }
        Ok(())
    }

    pub(super) fn index(&self, attempt: AttemptId) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| entry.attempt == attempt)
    }

    pub(super) fn granted(&self, token: FencingToken) -> Option<AttemptId> {
        self.holders()
            .find(|entry| entry.grant.is_some_and(|grant| grant.token == token))
            .map(|entry| entry.attempt)
    }

    pub(super) fn next_token(&mut self, now: &Now) -> FencingToken {
        self.last_token = (self.last_token + 1).max(now.token_floor);
        FencingToken::new(self.last_token)
    }
}

mod nanos {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, ser::Error};

    pub(super) fn serialize<S: Serializer>(
        span: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let nanos = u64::try_from(span.as_nanos()).map_err(S::Error::custom)?;
        serializer.serialize_u64(nanos)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_nanos)
    }
}
