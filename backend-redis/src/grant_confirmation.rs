//! Grants that replicas have to acknowledge (`min_replicas`), when they come by push.
//!
//! The write that made such a grant was somebody else's, on somebody else's connection, and `WAIT`
//! speaks of one's own writes alone. So the new holder renews first, and waits for the replicas of
//! that; only then is the grant told.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use tenure_core::{
    backend::{BackendEvent, EventSink},
    id::AttemptId,
    name::LockName,
    request::{Grant, Renewal, Renewed},
};

use crate::{renew, shared::Shared};

/// The attempts that wait, which a message names by their ids alone.
#[derive(Debug, Default)]
pub(crate) struct GrantConfirmation {
    shared: OnceLock<Weak<Shared>>,
    waiting: Mutex<HashMap<AttemptId, (LockName, Duration)>>,
}

impl GrantConfirmation {
    /// Says by what to confirm.
    pub(crate) fn attach(&self, shared: Weak<Shared>) {
        let _ = self.shared.set(shared);
    }

    pub(crate) fn add(&self, attempt: AttemptId, name: LockName, ttl: Duration) {
        self.waiting_attempts().insert(attempt, (name, ttl));
    }

    pub(crate) fn remove(&self, attempt: AttemptId) {
        self.waiting_attempts().remove(&attempt);
    }

    fn waiting_attempts(&self) -> MutexGuard<'_, HashMap<AttemptId, (LockName, Duration)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Confirms a grant that came by push, and tells of it. Does not block.
    pub(crate) fn confirm(&self, grant: Grant, events: EventSink) {
        let attempt = grant.attempt;
        let known = self.waiting_attempts().get(&attempt).cloned();
        let shared = self.shared.get().and_then(Weak::upgrade);
        let (Some((name, ttl)), Some(shared)) = (known, shared) else {
            // It has overtaken the answer to its enqueue: the core asks once that is there.
            events.send(BackendEvent::Look { attempt });
            return;
        };
        tokio::spawn(async move {
            let entry = Renewal::new(name, attempt, ttl, Some(grant.token));
            let event = match renew::renew(&shared, &[entry]).await.pop() {
                Some(Renewed::Proved { from }) => {
                    BackendEvent::Granted(Grant::proved(attempt, grant.token, grant.ttl, from))
                }
                Some(Renewed::Granted(grant)) => BackendEvent::Granted(grant),
                Some(Renewed::Gone(reason)) => BackendEvent::Lost { attempt, reason },
                // Asked as a waiter, it is given back if replicas are still missing.
                _ => BackendEvent::Look { attempt },
            };
            events.send(event);
        });
    }
}
