//! The state of the queue machine, as a store keeps it.

use std::{collections::VecDeque, fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    id::{AttemptId, ClientId},
    request::Owner,
    token::FencingToken,
};

/// Which clock made a stamp. Two stamps can be compared only if it was the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClockId(u128);

impl ClockId {
    /// The identity of that number.
    #[must_use]
    pub const fn new(id: u128) -> Self {
        Self(id)
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

/// A moment, and the clock that read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Stamp {
    /// The clock.
    pub clock: ClockId,
    /// Time since that clock's origin.
    #[serde(with = "nanos")]
    pub at: Duration,
}

impl Stamp {
    /// That moment on that clock.
    #[must_use]
    pub const fn new(clock: ClockId, at: Duration) -> Self {
        Self { clock, at }
    }

    /// Whether `ttl` has passed since; never, as far as a different clock can tell.
    #[must_use]
    pub fn is_older_than(&self, ttl: Duration, now: &Now) -> bool {
        self.clock == now.stamp.clock && now.stamp.at >= self.at.saturating_add(ttl)
    }
}

/// The time at which an event is taken, and the least that the next token may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Now {
    /// By the clock that expiry goes by.
    pub stamp: Stamp,
    /// By the wall clock, in microseconds since 1970. For showing, and for fences that another
    /// clock stamped; no grant rests on it.
    pub wall_us: u64,
    /// A token is at least this. Where the store's state can be deleted by hand, the wall clock in
    /// microseconds keeps tokens rising (T1).
    pub token_floor: u64,
}

impl Now {
    /// That time.
    #[must_use]
    pub const fn new(stamp: Stamp, wall_us: u64, token_floor: u64) -> Self {
        Self {
            stamp,
            wall_us,
            token_floor,
        }
    }
}

/// The grant that an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct GrantRecord {
    /// Its fencing token.
    pub token: FencingToken,
    /// When it was given, by the wall clock, in microseconds since 1970.
    pub granted_at_us: u64,
}

/// One attempt's place in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Entry {
    /// Who it is.
    pub attempt: AttemptId,
    /// Where word about it is sent.
    pub client: ClientId,
    /// Who is shown to others.
    pub owner: Owner,
    /// How long it lives without a renewal.
    #[serde(with = "nanos")]
    pub ttl: Duration,
    /// When it was last renewed, or made.
    pub refreshed: Stamp,
    /// How often it was renewed.
    pub beat: u64,
    /// When it was made, by the wall clock, in microseconds since 1970.
    pub enqueued_at_us: u64,
    /// Present if it holds the lock.
    pub grant: Option<GrantRecord>,
}

impl Entry {
    /// Whether its TTL has run out, as far as the clock that reads now can tell.
    #[must_use]
    pub fn has_lapsed(&self, now: &Now) -> bool {
        self.refreshed.is_older_than(self.ttl, now)
    }

    /// The time until it lapses; `None` if another clock stamped it.
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

/// An attempt whose requests are refused, because one may arrive after its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Fenced {
    /// Whose requests.
    pub attempt: AttemptId,
    /// Since when.
    pub since: Stamp,
    /// Since when by the wall clock, in microseconds since 1970.
    pub wall_us: u64,
    /// For how long.
    #[serde(with = "nanos")]
    pub ttl: Duration,
}

impl Fenced {
    /// Whether it has stood long enough.
    ///
    /// Where another clock stamped it (an earlier boot, another host), the wall clock decides:
    /// nobody else could ever take it down, and what comes too late behind it lapses anyway.
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
    /// It was evicted.
    Evicted,
    /// It lapsed.
    Expired,
    /// Its own removal.
    Released,
}

/// The grant that ended last, so that its owner can be told why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Ended {
    /// Whose it was.
    pub attempt: AttemptId,
    /// How it ended.
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

/// What is wrong with a state that was read from a store (clause S2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

impl Queue {
    /// A lock that nobody has ever held.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The entry that holds the lock.
    #[must_use]
    pub fn holder(&self) -> Option<&Entry> {
        self.entries.front().filter(|entry| entry.grant.is_some())
    }

    /// All entries: the holder first, then the waiters in the order of their turns.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.iter()
    }

    /// The entry of an attempt.
    #[must_use]
    pub fn entry(&self, attempt: AttemptId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.attempt == attempt)
    }

    /// The highest token that was granted; zero if none was.
    #[must_use]
    pub const fn last_token(&self) -> FencingToken {
        FencingToken::new(self.last_token)
    }

    /// Whether nothing is left but the fencing state (clause R4).
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a store that keeps its tokens elsewhere can forget this lock: nobody holds it or
    /// waits, and no attempt is fenced off.
    #[must_use]
    pub fn is_blank(&self, now: &Now) -> bool {
        self.entries.is_empty() && self.fenced.iter().all(|fenced| fenced.has_served(now))
    }

    /// Checks what no sequence of events can produce, after reading the state from a store.
    ///
    /// # Errors
    ///
    /// [`Malformed`] says what is impossible.
    pub fn validate(&self) -> Result<(), Malformed> {
        if self.last_token > FencingToken::MAX.get() {
            return Err(Malformed("its last token is out of range"));
        }
        let mut attempts = std::collections::HashSet::with_capacity(self.entries.len());
        for (index, entry) in self.entries.iter().enumerate() {
            if !attempts.insert(entry.attempt) {
                return Err(Malformed("an attempt has two entries"));
            }
            match entry.grant {
                Some(_) if index > 0 => return Err(Malformed("two entries hold the lock")),
                Some(grant) if grant.token.get() > self.last_token => {
                    return Err(Malformed("the holder's token is above the last one given"));
                }
                None if index == 0 => return Err(Malformed("entries wait but none holds")),
                _ => {}
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
        self.entries
            .iter()
            .take_while(|entry| entry.grant.is_some())
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
