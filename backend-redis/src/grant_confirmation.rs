//! Confirms pushed grants when replicas have to acknowledge grants (`min_replicas`).
//!
//! A pushed grant was written by another client on another connection, and `WAIT` covers only the
//! writes of its own connection. Therefore the new holder first renews the grant and waits until
//! the replicas acknowledge that renewal. Only then does the core receive the grant.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use tenure_core::{
    backend::{BackendEvent, EventSink, RenewalAnswers},
    id::AttemptId,
    name::LockName,
    request::{Grant, Renewal, Renewed},
};

use crate::{renew, shared::Shared};

/// The waiting attempts of this client. A message names an attempt by its id alone.
#[derive(Debug, Default)]
pub(crate) struct GrantConfirmation {
    shared: OnceLock<Weak<Shared>>,
    waiting: Mutex<HashMap<AttemptId, (LockName, Duration)>>,
}

impl GrantConfirmation {
    /// Sets the state that confirmations are sent with.
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

    /// Confirms a pushed grant in the background and then sends the event. Does not block.
    pub(crate) fn confirm(&self, grant: Grant, events: EventSink) {
        let attempt = grant.attempt;
        let known = self.waiting_attempts().get(&attempt).cloned();
        let shared = self.shared.get().and_then(Weak::upgrade);
        let (Some((name, ttl)), Some(shared)) = (known, shared) else {
            // The message arrived before the reply to the enqueue. The core asks again once that
            // reply is there.
            events.send(BackendEvent::Recheck { attempt });
            return;
        };
        tokio::spawn(async move {
            let entry = Renewal::new(name, attempt, ttl, Some(grant.token));
            let entries = [entry];
            let renewal =
                RenewalAnswers::collect(1, |answers| renew::renew(&shared, &entries, answers));
            let event = match renewal.await.pop() {
                Some(Renewed::Proved { from }) => {
                    BackendEvent::Granted(Grant::proved(attempt, grant.token, grant.ttl, from))
                }
                Some(Renewed::Granted(grant)) => BackendEvent::Granted(grant),
                Some(Renewed::Gone(reason)) => BackendEvent::Lost { attempt, reason },
                // The core then reports the attempt as a waiter. If replicas are still missing,
                // that report gives the grant back.
                _ => BackendEvent::Recheck { attempt },
            };
            events.send(event);
        });
    }
}
