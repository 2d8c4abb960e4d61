//! This client's own attempts: where each is, and whether its core knows of its grant.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{clock::Instant, id::AttemptId, name::LockName};

/// What is known of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptStatus {
    /// Its enqueue has not been answered: that it is absent says nothing.
    Sent,
    /// It is in the queue.
    Waiting,
    /// It is the holder, and the core was told.
    Holding,
}

type Locks = HashMap<LockName, HashMap<AttemptId, AttemptStatus>>;

#[derive(Debug, Default)]
pub(super) struct Attempts {
    locks: Mutex<Locks>,
    /// Attempts that were removed while a request of theirs might still come, and until when
    /// they are remembered.
    fenced: Mutex<HashMap<AttemptId, Instant>>,
}

impl Attempts {
    /// Registers an attempt before anything is sent; whether it is the first one at that lock.
    pub(super) fn add(&self, name: &LockName, attempt: AttemptId) -> bool {
        let mut locks = self.locked();
        let first = !locks.contains_key(name);
        locks
            .entry(name.clone())
            .or_default()
            .entry(attempt)
            .or_insert(AttemptStatus::Sent);
        first
    }

    /// Forgets an attempt; whether it was the last one at that lock.
    pub(super) fn forget(&self, name: &LockName, attempt: AttemptId) -> bool {
        let mut locks = self.locked();
        let Some(attempts) = locks.get_mut(name) else {
            return false;
        };
        attempts.remove(&attempt);
        let last = attempts.is_empty();
        if last {
            locks.remove(name);
        }
        last
    }

    /// Notes where an attempt stands, if it is still registered. Returns whether that is news. A
    /// holder never waits again.
    pub(super) fn set_status(
        &self,
        name: &LockName,
        attempt: AttemptId,
        status: AttemptStatus,
    ) -> bool {
        let mut locks = self.locked();
        let known = locks.get_mut(name).and_then(|list| list.get_mut(&attempt));
        match known {
            Some(known) if *known != status && *known != AttemptStatus::Holding => {
                *known = status;
                true
            }
            _ => false,
        }
    }

    /// The attempts at a lock.
    pub(super) fn at(&self, name: &LockName) -> Vec<(AttemptId, AttemptStatus)> {
        self.locked()
            .get(name)
            .map(|list| list.iter().map(|(id, status)| (*id, *status)).collect())
            .unwrap_or_default()
    }

    /// The locks with attempts.
    pub(super) fn locks(&self) -> Vec<LockName> {
        self.locked().keys().cloned().collect()
    }

    /// Refuses an attempt's enqueue from now on. Only this client can send one, so that nobody
    /// else needs to know; what it has handed to the store already fails on the version.
    pub(super) fn fence(&self, attempt: AttemptId, now: Instant, until: Instant) {
        let mut fenced = self.fenced.lock().unwrap_or_else(PoisonError::into_inner);
        fenced.retain(|_, until| *until > now);
        fenced.insert(attempt, until);
    }

    /// Whether an attempt's enqueue is refused.
    pub(super) fn is_fenced(&self, attempt: AttemptId) -> bool {
        let fenced = self.fenced.lock().unwrap_or_else(PoisonError::into_inner);
        fenced.contains_key(&attempt)
    }

    fn locked(&self) -> MutexGuard<'_, Locks> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
