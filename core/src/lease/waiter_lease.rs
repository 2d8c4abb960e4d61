//! The lease of a waiter: whether a pushed grant is valid, and from when it counts (clauses D4 and
//! W4).

use std::time::Duration;

use crate::{
    clock::Instant,
    request::{StoreTime, Waiting},
};

/// Minimum time between two reports about a grant that should have expired.
const MIN_RECHECK_INTERVAL: Duration = Duration::from_millis(10);

/// A waiter's knowledge of its entry in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WaiterLease {
    ttl: Duration,
    reported_from: Instant,
    as_of: StoreTime,
    next_report: Instant,
    /// A report was requested that must be sent after the request.
    report_requested: bool,
}

impl WaiterLease {
    /// Creates the state of a waiter whose enqueue or report was answered with "still waiting".
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

    /// Applies another "still waiting" answer. An answer that is older than an earlier one is
    /// dropped.
    pub fn on_waiting(&mut self, answer: &Waiting, poll: Option<Duration>, now: Instant) {
        if answer.as_of < self.as_of {
            return;
        }
        self.as_of = answer.as_of;
        self.reported_from = self.reported_from.max(answer.proved_from);
        self.schedule(answer, poll, now);
    }

    /// Checks a grant that was pushed at the store's time `pushed_at`. Returns the moment from
    /// which the grant counts: when the last report that was answered "still waiting" was sent.
    ///
    /// Returns `None` for a push that is not later than that answer. Such a push belongs to a state
    /// that the store has since rolled back (a failover to a server that never saw the grant).
    #[must_use]
    pub fn accept_push(&self, pushed_at: StoreTime) -> Option<Instant> {
        (pushed_at > self.as_of).then_some(self.reported_from)
    }

    /// Records that a report was handed to the driver.
    pub fn on_report_sent(&mut self, now: Instant) {
        self.report_requested = false;
        self.next_report = now + self.ttl / 6;
    }

    /// Makes the next report due at once, whatever the answers to the reports in flight.
    pub const fn report_now(&mut self) {
        self.report_requested = true;
    }

    /// Records that a report failed.
    pub fn mark_suspect(&mut self, now: Instant) {
        self.next_report = self.next_report.min(now + self.ttl / 18);
    }

    /// Returns when the last report that was answered "still waiting" was sent.
    pub(crate) const fn reported_from(&self) -> Instant {
        self.reported_from
    }

    /// Returns when to send the next report.
    #[must_use]
    pub const fn next_report(&self) -> Instant {
        if self.report_requested {
            return Instant::ORIGIN;
        }
        self.next_report
    }

    /// Schedules a report at least every third of the TTL. The first waiter also reports when the
    /// holder's grant expires, since a dead holder sends no message (X3, W2).
    fn schedule(&mut self, answer: &Waiting, poll: Option<Duration>, now: Instant) {
        // The proof of a shared session may already be old; reporting again without a pause would
        // not yield a newer one.
        let mut next = (answer.proved_from + self.ttl / 3).max(now + self.ttl / 18);
        if let Some(every) = poll {
            next = next.min(now + every);
        }
        if let Some(within) = answer.recheck {
            next = next.min(now + within.max(MIN_RECHECK_INTERVAL));
        }
        let expiry = answer.holder.as_ref().and_then(|holder| holder.expires_in);
        if let (Some(1), Some(left)) = (answer.ahead, expiry) {
            // A store may need a moment to remove an expired entry.
            let left = left.saturating_add(Duration::from_millis(1));
            next = next.min(now + left.max(MIN_RECHECK_INTERVAL));
        }
        self.next_report = next;
    }
}
