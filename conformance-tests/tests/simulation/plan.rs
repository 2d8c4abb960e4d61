//! The plan of a run, which the seed decides: the behaviour of the store, the clients, and the faults.

use std::{collections::BTreeSet, time::Duration};

/// A kind of fault. A run can be repeated without some kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Loss,
    Delay,
    Duplicate,
    Pause,
    Crash,
    Cancel,
    Restart,
    Partition,
    Evict,
    Drop,
}

impl Kind {
    pub(crate) const ALL: [Self; 10] = [
        Self::Loss,
        Self::Delay,
        Self::Duplicate,
        Self::Pause,
        Self::Crash,
        Self::Cancel,
        Self::Restart,
        Self::Partition,
        Self::Evict,
        Self::Drop,
    ];

    pub(crate) fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// The way in which the store wakes waiters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// By a message with the grant.
    Grant,
    /// By a message that something has changed.
    Look,
    /// Not at all: waiters poll.
    Poll,
}

/// The plan of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) kinds: BTreeSet<Kind>,
    pub(crate) clients: usize,
    pub(crate) workers: usize,
    pub(crate) locks: usize,
    /// Whether acquires are exclusive, shared and for permits, or all exclusive.
    pub(crate) joint: bool,
    pub(crate) ttl: Duration,
    pub(crate) margin: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) wake: Wake,
    /// Whether the store's client library repeats unanswered requests, including enqueues. Then every
    /// removal leaves a tombstone, as the trait requires.
    pub(crate) resends: bool,
    /// Whether a request whose reply is lost hangs instead of failing.
    pub(crate) hangs: bool,
    /// The numbers of lost, slow and duplicated messages of a thousand.
    pub(crate) lost: u64,
    pub(crate) slow: u64,
    pub(crate) twice: u64,
    /// The end of the faults.
    pub(crate) heal: u64,
    /// The time after which no operation starts.
    pub(crate) stop: u64,
    /// The end of the run.
    pub(crate) end: u64,
}

/// The permits of each lock.
pub(crate) const PERMITS: u32 = 3;

/// The maximum drift of clocks, in parts per million.
pub(crate) const DRIFT_PPM: u32 = 10_000;

impl Plan {
    /// Returns the plan of a seed without the given kinds of faults. Excluding a kind changes nothing else of
    /// the plan.
    pub(crate) fn new(rng: &mut fastrand::Rng, without: &BTreeSet<Kind>) -> Self {
        let mut kinds = BTreeSet::new();
        for kind in Kind::ALL {
            let chosen = rng.u8(..10) < 7;
            if chosen && !without.contains(&kind) {
                kinds.insert(kind);
            }
        }
        let ttl = Duration::from_millis(rng.u64(400..2400));
        let span = ns(ttl);
        let heal = span * rng.u64(8..14);
        let stop = heal + span * 8;
        let rate = |rng: &mut fastrand::Rng, kind, most| {
            let rate = rng.u64(1..most);
            if kinds.contains(&kind) { rate } else { 0 }
        };
        let lost = rate(rng, Kind::Loss, 200);
        let slow = rate(rng, Kind::Delay, 300);
        let twice = rate(rng, Kind::Duplicate, 300);
        Self {
            clients: rng.usize(2..5),
            workers: rng.usize(1..3),
            locks: rng.usize(1..3),
            joint: rng.bool(),
            ttl,
            margin: Duration::from_millis([0, 25][rng.usize(..2)]),
            request_timeout: Duration::from_millis(rng.u64(200..3000)),
            wake: [
                Wake::Grant,
                Wake::Grant,
                Wake::Grant,
                Wake::Look,
                Wake::Poll,
            ][rng.usize(..5)],
            resends: rng.bool(),
            hangs: rng.bool(),
            lost,
            slow,
            twice,
            heal,
            stop,
            end: stop + span * 12 + 20 * 1_000_000_000,
            kinds,
        }
    }

    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// Returns the part of the TTL for which a proof is valid, from the text of clause D1 and independent of
    /// the core's code.
    pub(crate) fn validity(&self) -> u64 {
        let ttl = ns(self.ttl);
        let drift = (u128::from(ttl) * u128::from(DRIFT_PPM)).div_ceil(1_000_000);
        ttl - u64::try_from(drift).expect("less than the TTL") - ns(self.margin)
    }

    /// Returns the longest delay of a message.
    pub(crate) fn slowest(&self) -> u64 {
        ns(self.ttl) * 8 / 5
    }

    /// Returns the time from which only expiries of the faults remain.
    pub(crate) fn quiet(&self) -> u64 {
        self.heal + self.slowest()
    }

    /// Returns the time from which all unanswered requests have failed.
    pub(crate) fn settled(&self) -> u64 {
        self.quiet() + ns(self.request_timeout) * 3 + ns(self.ttl)
    }
}

/// Converts a duration to nanoseconds.
pub(crate) fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).expect("a short span")
}
