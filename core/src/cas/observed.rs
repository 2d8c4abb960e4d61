//! Observations of entries that another clock stamped: since when each was seen unchanged.
//!
//! Such an entry is dead once it was seen unchanged for its whole TTL on this client's clock, and
//! for no other reason.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::store::Key;
use crate::{
    clock::Instant,
    id::AttemptId,
    queue::{ClockId, Entry, Queue},
};

/// Maximum number of locks whose foreign entries are remembered. Beyond it, the least recently
/// observed lock is forgotten, which makes its takeover later, never earlier.
const MAX_LOCKS: usize = 1024;

#[derive(Debug)]
pub(super) struct Observed {
    own_clock: ClockId,
    locks: Mutex<HashMap<Key, ObservedLock>>,
}

#[derive(Debug)]
struct ObservedLock {
    last_observed: Instant,
    entries: HashMap<AttemptId, Observation>,
}

#[derive(Clone, Copy, Debug)]
struct Observation {
    beat: u64,
    first_seen: Instant,
}

impl Observed {
    pub(super) fn new(own_clock: ClockId) -> Self {
        Self {
            own_clock,
            locks: Mutex::default(),
        }
    }

    /// Returns the entries that another clock has stamped, with their numbers of renewals.
    pub(super) fn foreign_entries(&self, queue: &Queue) -> Vec<(AttemptId, u64)> {
        let foreign = queue.entries().filter(|entry| self.is_foreign(entry));
        foreign.map(|entry| (entry.attempt, entry.beat)).collect()
    }

    /// Records a state that was read before `now`, and returns the dead entries with their numbers
    /// of renewals. The last entry of the queue comes first: if the holder ended first, the lock would
    /// be granted to a dead waiter.
    pub(super) fn observe(&self, key: &Key, queue: &Queue, now: Instant) -> Vec<(AttemptId, u64)> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = locks
            .remove(key)
            .map(|lock| lock.entries)
            .unwrap_or_default();
        let mut dead = Vec::new();
        let mut entries = HashMap::new();
        for entry in queue.entries().filter(|entry| self.is_foreign(entry)) {
            let observation = before
                .remove(&entry.attempt)
                .filter(|observation| observation.beat == entry.beat)
                .unwrap_or(Observation {
                    beat: entry.beat,
                    first_seen: now,
                });
            if now.since(observation.first_seen) >= entry.ttl {
                dead.push((entry.attempt, entry.beat));
            }
            entries.insert(entry.attempt, observation);
        }
        if !entries.is_empty() {
            if locks.len() >= MAX_LOCKS {
                let oldest = locks.iter().min_by_key(|(_, lock)| lock.last_observed);
                if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                    locks.remove(&oldest);
                }
            }
            let last_observed = now;
            locks.insert(
                key.clone(),
                ObservedLock {
                    last_observed,
                    entries,
                },
            );
        }
        dead.reverse();
        dead
    }

    /// Returns an upper bound on the time until this observer considers a foreign entry dead, if it
    /// was observed.
    pub(super) fn expires_in(&self, key: &Key, entry: &Entry, now: Instant) -> Option<Duration> {
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let observation = locks.get(key)?.entries.get(&entry.attempt)?;
        let left = entry.ttl.saturating_sub(now.since(observation.first_seen));
        (observation.beat == entry.beat).then_some(left)
    }

    fn is_foreign(&self, entry: &Entry) -> bool {
        entry.refreshed.clock != self.own_clock
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.locks.lock().unwrap().len()
    }
}
