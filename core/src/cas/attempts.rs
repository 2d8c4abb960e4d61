//! This client's attempts: the status of each, and whether the core knows of its grant.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{clock::Instant, id::AttemptId, name::LockName};

/// The status of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptStatus {
    /// Its enqueue is not answered. Its absence from the queue proves nothing.
    Sent,
    /// The attempt is in the queue.
    Waiting,
    /// The attempt is the holder, and the core knows it.
    Holding,
}

type Locks = HashMap<LockName, HashMap<AttemptId, AttemptStatus>>;

#[derive(Debug, Default)]
pub(super) struct Attempts {
    locks: Mutex<Locks>,
    /// Fenced attempts, each with the end of its fence: a request may still be in flight after
    /// their removal.
    fenced: Mutex<HashMap<AttemptId, Instant>>,
}

impl Attempts {
    /// Registers an attempt before its first request is sent. Returns whether it is the first
    /// attempt at this lock.
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

    /// Forgets an attempt. Returns whether it was the last attempt at this lock.
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

    /// Sets the status of an attempt that is still registered. Returns whether the status changed.
    /// A holder never becomes a waiter again.
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

    /// Returns whether the core knows that an attempt holds the lock.
    pub(super) fn is_holding(&self, name: &LockName, attempt: AttemptId) -> bool {
        let locks = self.locked();
        let status = locks.get(name).and_then(|list| list.get(&attempt));
        status == Some(&AttemptStatus::Holding)
    }

    /// Returns the attempts at a lock.
    pub(super) fn at(&self, name: &LockName) -> Vec<(AttemptId, AttemptStatus)> {
        self.locked()
            .get(name)
            .map(|list| list.iter().map(|(id, status)| (*id, *status)).collect())
            .unwrap_or_default()
    }

    /// Returns the locks that have attempts.
    pub(super) fn locks(&self) -> Vec<LockName> {
        self.locked().keys().cloned().collect()
    }

    /// Rejects an attempt's enqueue from now on. Only this client can send it, so the store needs
    /// no record of the fence. An enqueue that is already in flight fails on the version.
    pub(super) fn fence(&self, attempt: AttemptId, now: Instant, until: Instant) {
        let mut fenced = self.fenced.lock().unwrap_or_else(PoisonError::into_inner);
        fenced.retain(|_, until| *until > now);
        fenced.insert(attempt, until);
    }

    /// Returns whether an attempt's enqueue is rejected.
    pub(super) fn is_fenced(&self, attempt: AttemptId) -> bool {
        let fenced = self.fenced.lock().unwrap_or_else(PoisonError::into_inner);
        fenced.contains_key(&attempt)
    }

    fn locked(&self) -> MutexGuard<'_, Locks> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
