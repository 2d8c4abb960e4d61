//! The waiting attempts of this client, kept only if replicas have to acknowledge grants.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tenure_core::{id::AttemptId, name::LockName};

/// The lock and the TTL of each waiting attempt. A message names an attempt by its id alone.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<HashMap<AttemptId, (LockName, Duration)>>);

impl Attempts {
    pub(crate) fn add(&self, attempt: AttemptId, name: LockName, ttl: Duration) {
        self.lock().insert(attempt, (name, ttl));
    }

    pub(crate) fn remove(&self, attempt: AttemptId) {
        self.lock().remove(&attempt);
    }

    pub(crate) fn get(&self, attempt: AttemptId) -> Option<(LockName, Duration)> {
        self.lock().get(&attempt).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AttemptId, (LockName, Duration)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
