//! What a waiter may believe: when a grant that comes by push is its own, and from when it counts
//! (clauses D4 and W4).

use std::time::Duration;

use crate::{
    clock::Instant,
    request::{StoreTime, Waiting},
};

/// Between two looks at a grant that should have run out.
const MIN_RECHECK_INTERVAL: Duration = Duration::from_millis(10);

/// A waiter's view of its place in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WaiterLease {
    ttl: Duration,
    reported_from: Instant,
    as_of: StoreTime,
    next_report: Instant,
    /// Something happened that only a report sent from now on can tell of.
    report_requested: bool,
}

impl WaiterLease {
    /// A waiter that was told "still waiting" in answer to its enqueue or a report.
    #[must_use]
    pub fn new(ttl: Duration, answer: &Waiting, poll: Option<Duration>, now: Instant) -> Self {
        let mut waiter_lease = Self {
            ttl,
            reported_from: answer.proved_from,
            as_of: answer.as_of,
            next_report: now,
            report_requested: false,
        };
        waiter_lease.schedule(answer, poll, now);
        waiter_lease
    }

    /// Takes another answer "still waiting". One that was overtaken by a later one is dropped.
    pub fn on_waiting(&mut self, answer: &Waiting, poll: Option<Duration>, now: Instant) {
        if answer.as_of < self.as_of {
            return;
        }
        self.as_of = answer.as_of;
        self.reported_from = self.reported_from.max(answer.proved_from);
        self.schedule(answer, poll, now);
    }

    /// Whether a grant that was pushed at that time of the store is this waiter's; then it counts
    /// from the sending of the last report that was answered "still waiting".
    ///
    /// A push that is not later than that answer belongs to a past that the store has taken back
    /// (a failover to a server that never saw the grant), and is dropped.
    #[must_use]
    pub fn accept_push(&self, pushed_at: StoreTime) -> Option<Instant> {
        (pushed_at > self.as_of).then_some(self.reported_from)
    }

    /// A report was handed to the driver.
    pub fn on_report_sent(&mut self, now: Instant) {
        self.report_requested = false;
        self.next_report = now + self.ttl / 6;
    }

    /// Makes the next report due at once, whatever is answered to those under way.
    pub const fn report_now(&mut self) {
        self.report_requested = true;
    }

    /// A report failed.
    pub fn mark_suspect(&mut self, now: Instant) {
        self.next_report = self.next_report.min(now + self.ttl / 18);
    }

    /// When to report again.
    #[must_use]
    pub const fn next_report(&self) -> Instant {
        if self.report_requested {
            return Instant::ORIGIN;
        }
        self.next_report
    }

    /// Reports at least every third of the TTL; the first in line also when the holder's grant
    /// runs out, since a holder that has died sends nobody a message (X3, W2).
    fn schedule(&mut self, answer: &Waiting, poll: Option<Duration>, now: Instant) {
        // The proof of a session that many waiters share may be old already; asking again without
        // a pause would not make it newer.
        let mut next = (answer.proved_from + self.ttl / 3).max(now + self.ttl / 18);
        if let Some(every) = poll {
            next = next.min(now + every);
        }
        if let Some(within) = answer.recheck {
            next = next.min(now + within.max(MIN_RECHECK_INTERVAL));
        }
        let expiry = answer.holder.as_ref().and_then(|holder| holder.expires_in);
        if let (Some(1), Some(left)) = (answer.ahead, expiry) {
            // A store may take a moment to clear away what has expired.
            let left = left.saturating_add(Duration::from_millis(1));
            next = next.min(now + left.max(MIN_RECHECK_INTERVAL));
        }
        self.next_report = next;
    }
}
