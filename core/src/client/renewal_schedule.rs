//! The client's attempts, and when each must be visited next.
//!
//! One schedule serves all locks and waiters of a client, so that N of them need neither N timers
//! nor N requests (clause K1).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::attempt::Attempt;
use crate::{clock::Instant, id::AttemptId};

#[derive(Debug, Default)]
pub(super) struct RenewalSchedule {
    attempts: HashMap<AttemptId, ScheduledAttempt>,
    due: BTreeSet<(Instant, u64, AttemptId)>,
    /// Number of insertions so far. Attempts that are due at the same moment are taken in the order
    /// of insertion: an order by their random ids would make simulated runs irreproducible.
    inserted: u64,
    /// Until when the renewer sleeps; an earlier due time must wake it.
    next_wakeup: Option<Instant>,
}

#[derive(Debug)]
struct ScheduledAttempt {
    attempt: Arc<Attempt>,
    sequence: u64,
    due: Instant,
}

impl RenewalSchedule {
    pub(super) fn insert(&mut self, attempt: Arc<Attempt>) {
        let (sequence, due) = (self.inserted, Instant::FAR_FUTURE);
        self.inserted += 1;
        self.attempts.insert(
            attempt.id,
            ScheduledAttempt {
                attempt,
                sequence,
                due,
            },
        );
    }

    pub(super) fn get(&self, attempt: AttemptId) -> Option<&Arc<Attempt>> {
        self.attempts
            .get(&attempt)
            .map(|scheduled| &scheduled.attempt)
    }

    pub(super) fn remove(&mut self, attempt: AttemptId) -> Option<Arc<Attempt>> {
        let scheduled = self.attempts.remove(&attempt)?;
        self.due
            .remove(&(scheduled.due, scheduled.sequence, attempt));
        Some(scheduled.attempt)
    }

    /// Returns all attempts, in the order of insertion.
    pub(super) fn all(&self) -> Vec<Arc<Attempt>> {
        let mut all: Vec<_> = self.attempts.values().collect();
        all.sort_unstable_by_key(|scheduled| scheduled.sequence);
        all.into_iter()
            .map(|scheduled| Arc::clone(&scheduled.attempt))
            .collect()
    }

    /// Sets when an attempt must be visited. Returns whether the renewer must be woken.
    pub(super) fn set_due(&mut self, attempt: AttemptId, at: Instant) -> bool {
        let Some(scheduled) = self.attempts.get_mut(&attempt) else {
            return false;
        };
        if scheduled.due != at {
            self.due
                .remove(&(scheduled.due, scheduled.sequence, attempt));
            scheduled.due = at;
            if at != Instant::FAR_FUTURE {
                self.due.insert((at, scheduled.sequence, attempt));
            }
        }
        if self.next_wakeup.is_none_or(|wakeup| at < wakeup) && at != Instant::FAR_FUTURE {
            self.next_wakeup = Some(at);
            return true;
        }
        false
    }

    /// If any attempt is due now, takes all attempts that are due by `horizon`.
    pub(super) fn take_due(
        &mut self,
        now: Instant,
        horizon: impl Fn(&Attempt) -> Instant,
    ) -> Vec<Arc<Attempt>> {
        let mut taken = Vec::new();
        let mut limit = now;
        for &(at, _, attempt) in &self.due {
            if at > limit {
                break;
            }
            if let Some(scheduled) = self.attempts.get(&attempt) {
                limit = limit.max(horizon(&scheduled.attempt));
                taken.push(Arc::clone(&scheduled.attempt));
            }
        }
        for attempt in &taken {
            if let Some(scheduled) = self.attempts.get_mut(&attempt.id) {
                self.due
                    .remove(&(scheduled.due, scheduled.sequence, attempt.id));
                scheduled.due = Instant::FAR_FUTURE;
            }
        }
        taken
    }

    /// Sets the renewer's next wake-up to the earliest due time, and returns it.
    ///
    /// A wake-up in the future is never cleared. A client that repeatedly acquires and releases one
    /// lock therefore wakes its renewer once per third of a TTL, not once per lock.
    pub(super) fn set_next_wakeup(&mut self, now: Instant) -> Option<Instant> {
        let next = self.due.first().map(|&(at, ..)| at);
        self.next_wakeup = next.or_else(|| self.next_wakeup.filter(|&wakeup| wakeup > now));
        self.next_wakeup
    }

    pub(super) fn len(&self) -> usize {
        self.attempts.len()
    }
}
