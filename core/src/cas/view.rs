//! The entries of a queue as they are shown to users (clauses A5 and I1).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{observed::Observed, store::Key, transaction::ClockReading};
use crate::{
    id::AttemptId,
    queue::{Entry, Queue},
    request::{Holder, Owner, Waiter},
};

/// Converts the entries of one lock at one moment.
#[derive(Debug)]
pub(super) struct Viewer<'a> {
    pub(super) key: &'a Key,
    pub(super) observed: &'a Observed,
    pub(super) moment: &'a ClockReading,
}

impl Viewer<'_> {
    /// Returns the holder. If several hold the lock, the one that was granted it first.
    pub(super) fn holder(&self, queue: &Queue) -> Option<Holder> {
        self.holders(queue).next()
    }

    /// Returns the holders whose grants have not expired.
    pub(super) fn holders(&self, queue: &Queue) -> impl Iterator<Item = Holder> {
        queue
            .holders()
            .filter(|entry| self.is_live(entry))
            .map(|entry| {
                let mut holder = entry.to_holder(&self.moment.now);
                holder.owner = Some(owner(entry));
                holder.with_expires_in(self.expires_in(entry))
            })
    }

    /// Returns the waiters that have not expired, in order.
    pub(super) fn waiters(&self, queue: &Queue) -> Vec<Waiter> {
        queue
            .entries()
            .filter(|entry| entry.grant.is_none() && self.is_live(entry))
            .map(|entry| {
                Waiter::new(
                    Some(entry.attempt),
                    Some(owner(entry)),
                    wall(entry.enqueued_at_us),
                )
                .with_mode(entry.mode)
            })
            .collect()
    }

    /// Returns the time after which an attempt should report again, because an entry that keeps it from
    /// the lock expires then unless it is renewed.
    pub(super) fn recheck(&self, queue: &Queue, attempt: AttemptId) -> Option<Duration> {
        queue.recheck_by(attempt, |entry| self.expires_in(entry))
    }

    fn is_live(&self, entry: &Entry) -> bool {
        self.expires_in(entry).is_none_or(|left| !left.is_zero())
    }

    /// Computed from the entry's stamp if it is comparable, otherwise from how long the entry was
    /// seen unchanged.
    fn expires_in(&self, entry: &Entry) -> Option<Duration> {
        entry
            .expires_in(&self.moment.now)
            .or_else(|| self.observed.expires_in(self.key, entry, self.moment.clock))
    }
}

/// Returns the stored owner. Its texts are truncated again, because they are untrusted.
fn owner(entry: &Entry) -> Owner {
    let owner = &entry.owner;
    Owner::new(owner.label.clone(), owner.host.clone(), owner.pid)
}

fn wall(micros: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_micros(micros))
}
