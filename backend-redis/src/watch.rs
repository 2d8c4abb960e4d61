//! Forwards the messages of the store, and connection changes, to the core.
//!
//! If replicas have to acknowledge grants (`min_replicas`), a pushed grant is confirmed first. It
//! was written by another client on another connection, and `WAIT` covers only the writes of its
//! own connection. Therefore the new holder first renews the grant and waits until the replicas
//! acknowledge that renewal. Only then does the core receive the grant.

use std::sync::{Arc, OnceLock, Weak};

use tenure_core::{
    backend::{BackendEvent, EventSink, RenewalAnswers},
    request::{Grant, Renewed},
};

use crate::{record::read_message, renew, shared::Shared, transport::Listener};

/// Forwards messages and connection changes.
#[derive(Debug)]
pub(crate) struct EventForwarder {
    events: EventSink,
    shared: OnceLock<Weak<Shared>>,
}

impl EventForwarder {
    pub(crate) const fn new(events: EventSink) -> Self {
        Self {
            events,
            shared: OnceLock::new(),
        }
    }

    /// Sets the state that grants are confirmed with. No attempt exists before that.
    pub(crate) fn attach(&self, shared: &Arc<Shared>) {
        let _ = self.shared.set(Arc::downgrade(shared));
    }

    fn on_granted(&self, grant: Grant) {
        let shared = self.shared.get().and_then(Weak::upgrade);
        let event = match shared {
            Some(shared) if shared.options.min_replicas > 0 => {
                return confirm(shared, grant);
            }
            Some(_) => BackendEvent::Granted(grant),
            None => BackendEvent::Recheck {
                attempt: grant.attempt,
            },
        };
        self.events.send(event);
    }
}

impl Listener for EventForwarder {
    fn on_message(&self, payload: &[u8]) {
        match read_message(payload) {
            Some(events) => {
                for event in events {
                    match event {
                        BackendEvent::Granted(grant) => self.on_granted(grant),
                        event => self.events.send(event),
                    }
                }
            }
            // The check of rights at the start sends it.
            None if payload.is_empty() => {}
            None => tracing::debug!("ignored an unknown message on the inbox channel"),
        }
    }

    fn on_disconnected(&self) {
        self.events.send(BackendEvent::Suspect);
    }

    fn on_reconnected(&self) {
        self.events.send(BackendEvent::Reconnected);
    }
}

/// Confirms a pushed grant in the background and then sends the event. Does not block.
fn confirm(shared: Arc<Shared>, grant: Grant) {
    let attempt = grant.attempt;
    let Some(mut entry) = shared.waiting.get(attempt) else {
        // The message arrived before the reply to the enqueue. The core asks again once that reply
        // is there.
        return shared
            .context
            .events
            .send(BackendEvent::Recheck { attempt });
    };
    entry.token = Some(grant.token);
    tokio::spawn(async move {
        let entries = vec![entry];
        let renewal = RenewalAnswers::collect(1, |answers| {
            renew::renew(Arc::clone(&shared), entries, answers)
        });
        let event = match renewal.await.pop() {
            Some(Renewed::Proved { from }) => BackendEvent::Granted(
                Grant::proved(attempt, grant.token, grant.ttl, from).with_floor(grant.floor),
            ),
            Some(Renewed::Granted(grant)) => BackendEvent::Granted(grant),
            Some(Renewed::Gone(reason)) => BackendEvent::Lost { attempt, reason },
            // The core then reports the attempt as a waiter. If replicas are still missing, that
            // report gives the grant back.
            _ => BackendEvent::Recheck { attempt },
        };
        shared.context.events.send(event);
    });
}
