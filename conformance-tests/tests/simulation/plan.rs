//! What a seed decides beforehand: the store's way of telling, the clients, and which faults there
//! are.

use std::{collections::BTreeSet, time::Duration};

/// One kind of fault. A run can be repeated without some of them.
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

/// How the store wakes a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// By a message with the grant.
    Grant,
    /// By a message that something has changed.
    Look,
    /// Not at all: waiters ask.
    Poll,
}

/// All that is decided before a run begins.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) kinds: BTreeSet<Kind>,
    pub(crate) clients: usize,
    pub(crate) workers: usize,
    pub(crate) locks: usize,
    pub(crate) ttl: Duration,
    pub(crate) margin: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) wake: Wake,
    /// Whether the store's client library repeats unanswered requests by itself, enqueues too; then
    /// every removal fences, as the trait asks.
    pub(crate) resends: bool,
    /// Whether a request whose answer is lost hangs, instead of failing.
    pub(crate) hangs: bool,
    /// Of a thousand messages, how many are lost, are slow, come twice.
    pub(crate) lost: u64,
    pub(crate) slow: u64,
    pub(crate) twice: u64,
    /// When the faults end.
    pub(crate) heal: u64,
    /// When nobody begins anything any more.
    pub(crate) stop: u64,
    /// When all has to be over.
    pub(crate) end: u64,
}

/// The part of a TTL that clocks may differ by, in parts per million.
pub(crate) const DRIFT_PPM: u32 = 10_000;

impl Plan {
    /// The plan of a seed, without those kinds of faults. Leaving out a kind changes nothing else
    /// that is decided here.
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

    /// The part of the TTL for which a proof may be believed, by the text of clause D1 and not by
    /// the core's code.
    pub(crate) fn validity(&self) -> u64 {
        let ttl = ns(self.ttl);
        let drift = (u128::from(ttl) * u128::from(DRIFT_PPM)).div_ceil(1_000_000);
        ttl - u64::try_from(drift).expect("less than the TTL") - ns(self.margin)
    }

    /// The longest for which a message is under way.
    pub(crate) fn slowest(&self) -> u64 {
        ns(self.ttl) * 8 / 5
    }

    /// From here on nothing is left of the faults but what has to lapse.
    pub(crate) fn quiet(&self) -> u64 {
        self.heal + self.slowest()
    }

    /// From here on requests that were never answered have been given up too.
    pub(crate) fn settled(&self) -> u64 {
        self.quiet() + ns(self.request_timeout) * 3 + ns(self.ttl)
    }
}

/// A span in nanoseconds.
pub(crate) fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).expect("a short span")
}
