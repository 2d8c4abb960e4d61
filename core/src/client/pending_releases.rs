//! The grants whose release has begun and is not acknowledged yet: a shutdown waits for them, and names
//! those that are left (R5).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{Attempt, Unreleased};
use crate::id::AttemptId;

#[derive(Debug, Default)]
pub(crate) struct PendingReleases {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    grants: HashMap<AttemptId, Pending>,
    /// Set by the shutdown: what could not be released is kept, to be named.
    closing: bool,
}

#[derive(Debug)]
struct Pending {
    grant: Unreleased,
    /// Nothing is tried any more.
    given_up: bool,
}

impl PendingReleases {
    /// The release of an attempt begins. Has no effect on an attempt without a grant.
    pub(crate) fn begin(&self, attempt: &Attempt) {
        if let Some((token, _)) = attempt.grant() {
            let grant = Unreleased {
                name: attempt.name.clone(),
                token,
            };
            let pending = Pending {
                grant,
                given_up: false,
            };
            self.lock().grants.insert(attempt.id, pending);
        }
    }

    /// The store has answered: nothing of the attempt is left.
    pub(crate) fn end(&self, attempt: AttemptId) {
        self.lock().grants.remove(&attempt);
        self.changed.notify_waiters();
    }

    /// The removal of an attempt is not tried any more.
    pub(crate) fn give_up(&self, attempt: AttemptId) {
        let mut state = self.lock();
        if !state.closing {
            state.grants.remove(&attempt);
        } else if let Some(pending) = state.grants.get_mut(&attempt) {
            pending.given_up = true;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// From now on, keeps what could not be released.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
    }

    /// Waits until nothing is under way.
    pub(crate) async fn settled(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().grants.values().all(|pending| pending.given_up) {
                return;
            }
            changed.await;
        }
    }

    /// Whether the release of an attempt is not acknowledged.
    pub(crate) fn contains(&self, attempt: AttemptId) -> bool {
        self.lock().grants.contains_key(&attempt)
    }

    /// The grants that are not released.
    pub(crate) fn unreleased(&self) -> Vec<Unreleased> {
        let state = self.lock();
        let grants = state.grants.values();
        grants.map(|pending| pending.grant.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
