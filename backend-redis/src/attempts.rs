//! The waiting attempts of this client, kept only if replicas have to acknowledge grants.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tenure_core::{
    id::AttemptId,
    request::{Enqueue, Renewal},
};

/// The waiting attempts, as they report. A message names an attempt by its id alone.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<HashMap<AttemptId, Renewal>>);

impl Attempts {
    pub(crate) fn add(&self, request: &Enqueue) {
        let (name, attempt) = (request.name.clone(), request.attempt);
        let report = Renewal::new(name, attempt, request.ttl, None).with_mode(request.mode);
        self.lock().insert(attempt, report);
    }

    pub(crate) fn remove(&self, attempt: AttemptId) {
        self.lock().remove(&attempt);
    }

    pub(crate) fn get(&self, attempt: AttemptId) -> Option<Renewal> {
        self.lock().get(&attempt).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AttemptId, Renewal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
