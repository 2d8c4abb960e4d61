//! Watches: an attempt's own node, whose end is a loss, and the node in front of a waiter.
//!
//! Each watch is a future of the connection that it was set on ([`Connection::spawn`]) and ends with
//! it. On a new connection everything is watched anew.

use std::sync::{Arc, Weak};

use tenure_core::{
    backend::BackendEvent,
    error::{Error, ErrorKind},
    id::AttemptId,
    loss::LossReason,
};
use zookeeper_client::{EventType, OneshotWatcher, Stat};

use super::{
    Session,
    attempts::{AfterDeletion, Watched},
};
use crate::{
    error::{RequestError, error},
    locate::{Located, locate},
    queue::{Position, Watch},
    record,
    transport::{Connection, answer},
};

const OPERATION: &str = "renewing";

impl Session {
    /// Looks up every node on a new connection, with watches, and the positions of the waiters.
    pub(super) fn watch_all(self: &Arc<Self>, connection: &Arc<Connection>) {
        let all = self.attempts().begin_check(connection.number);
        self.watch(connection, all);
        self.note_checked();
    }

    /// Looks up nodes of a renewal that were not looked up on this connection yet.
    pub(crate) fn watch_overlooked(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        batch: impl Iterator<Item = AttemptId>,
    ) {
        let overlooked = self.attempts().overlooked(batch, connection.number);
        self.watch(connection, overlooked);
    }

    fn watch(self: &Arc<Self>, connection: &Arc<Connection>, nodes: Vec<Watched>) {
        for Watched {
            attempt,
            node,
            waits,
        } in nodes
        {
            self.watch_own_node(connection, attempt, node, None);
            if waits {
                self.locate_later(connection, attempt);
            }
        }
    }

    /// Watches an attempt's own node from now on. `watcher` is a watch that was set before; without one
    /// the node is looked up first.
    pub(crate) fn watch_own_node(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        attempt: AttemptId,
        mut node: Arc<str>,
        mut watcher: Option<OneshotWatcher>,
    ) {
        let (session, connected) = (Arc::downgrade(self), Arc::downgrade(connection));
        let number = connection.number;
        connection.spawn(async move {
            loop {
                if watcher.is_none() {
                    // In a box, because this future is kept for as long as the lock is held.
                    let set = set_own_watch(&session, &connected, attempt, &mut node);
                    watcher = Box::pin(set).await;
                }
                let Some(current) = watcher.take() else {
                    break;
                };
                let event = current.changed().await;
                if !own_node_changed(&session, attempt, &node, number, event.event_type) {
                    break;
                }
            }
        });
    }

    /// Follows a node ahead of a waiter until the returned watch is dropped.
    pub(crate) fn follow_ahead(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        attempt: AttemptId,
        node: Arc<str>,
        watcher: OneshotWatcher,
    ) -> Arc<Watch> {
        let (watch, dropped) = Watch::new(Arc::clone(&node), connection.number);
        let (session, weak) = (Arc::downgrade(self), Arc::downgrade(connection));
        connection.spawn(async move {
            // The watcher and `dropped` end here, before the event is handled. `Predecessor::has_fired`
            // reads that from `dropped`.
            let event = tokio::select! {
                event = watcher.changed() => event,
                _ = dropped => return,
            };
            let (Some(session), Some(connection)) = (session.upgrade(), weak.upgrade()) else {
                return;
            };
            let turn = match event.event_type {
                EventType::Session => return,
                EventType::NodeDeleted => {
                    let mut attempts = session.attempts();
                    attempts.predecessor_deleted(attempt, &node, connection.number)
                }
                // The watch has fired, and the node still exists.
                _ => AfterDeletion::Locate,
            };
            match (turn, session.fresh_proof()) {
                (AfterDeletion::None, _) => {}
                (AfterDeletion::Admitted, Some(from)) => {
                    session.emit_grant(attempt, from);
                    session.write_mark(&connection, attempt);
                }
                (AfterDeletion::Admitted, None) | (AfterDeletion::Locate, _) => {
                    session.locate_and_grant(&connection, attempt).await;
                }
            }
        });
        watch
    }

    /// Looks up a waiter's position in the background.
    pub(crate) fn locate_later(self: &Arc<Self>, connection: &Arc<Connection>, attempt: AttemptId) {
        let (session, weak) = (Arc::clone(self), Arc::downgrade(connection));
        connection.spawn(async move {
            if let Some(connection) = weak.upgrade() {
                session.locate_and_grant(&connection, attempt).await;
            }
        });
    }

    /// Looks up a waiter's position, unless that is under way, and grants it the lock when it is
    /// admitted. Progress does not depend on any report of the waiter: a report that comes too late
    /// takes nothing back.
    async fn locate_and_grant(self: &Arc<Self>, connection: &Arc<Connection>, attempt: AttemptId) {
        if !self.attempts().begin_locating(attempt, connection.number) {
            return;
        }
        loop {
            // As strict as the enqueue, until the position is known.
            let strict = {
                let attempts = self.attempts();
                let entry = attempts.get(attempt);
                entry.is_some_and(|entry| matches!(entry.position, Position::Unknown))
            };
            let located = locate(self, connection, attempt, None, strict).await;
            let admitted = matches!(located, Ok(Located::Admitted));
            if admitted {
                self.write_mark(connection, attempt);
            }
            if admitted && let Some(from) = self.wait_fresh(connection).await {
                self.emit_grant(attempt, from);
                self.watch_unwatched(connection, attempt);
            }
            // After an error that may pass the next report asks again.
            let error = located.err().filter(|error| !error.is_retryable());
            let mut attempts = self.attempts();
            attempts.set_locate_error(attempt, error);
            if !attempts.end_locating(attempt) {
                break;
            }
        }
    }

    /// Watches the own node of a new holder, if no look-up of its position did.
    fn watch_unwatched(self: &Arc<Self>, connection: &Arc<Connection>, attempt: AttemptId) {
        let node = {
            let attempts = self.attempts();
            let entry = attempts.get(attempt);
            let unwatched = entry.filter(|entry| entry.watched_on != connection.number);
            unwatched.and_then(|entry| entry.node.clone())
        };
        if let Some(node) = node {
            self.watch_own_node(connection, attempt, node, None);
        }
    }

    /// Writes the mark of a holder in the background, if it is due. If that fails, the next renewal
    /// repeats it.
    pub(crate) fn write_mark(self: &Arc<Self>, connection: &Arc<Connection>, attempt: AttemptId) {
        let Some((node, data)) = self.attempts().begin_mark(attempt, connection.number) else {
            return;
        };
        let (session, weak) = (Arc::downgrade(self), Arc::downgrade(connection));
        connection.spawn(async move {
            let written = match weak.upgrade() {
                Some(connection) => write(&connection, &node, &data).await,
                None => Err(RequestError::NotSent),
            };
            if let Some(session) = session.upgrade() {
                let version = written.ok().map(|stat| stat.version);
                session.attempts().end_mark(attempt, version);
            }
        });
    }

    /// Hands the grant of an attempt that is admitted to the core.
    pub(crate) fn emit_grant(&self, attempt: AttemptId, from: tenure_core::clock::Instant) {
        let grant = self.attempts().grant(attempt, self.ttl, from);
        self.emit(grant.map(BackendEvent::Granted));
    }

    /// Notes what a look-up of an attempt's own node showed.
    pub(crate) fn own_node_seen(
        &self,
        connection: &Connection,
        attempt: AttemptId,
        stat: Option<&Stat>,
    ) {
        let event = self
            .attempts()
            .seen(attempt, stat, connection.session_id, connection.number);
        self.emit(event);
        self.note_checked();
    }
}

async fn write(connection: &Connection, node: &str, data: &[u8]) -> Result<Stat, RequestError> {
    let operation = connection.operation().await?;
    answer(operation.client.set_data(node, data, None)).await
}

/// Sets a watch on an attempt's own node. `None`: the node is gone, or the watch is not needed. If a
/// downgrade without an answer has replaced the node, `node` is the new one from then on.
async fn set_own_watch(
    session: &Weak<Session>,
    connection: &Weak<Connection>,
    attempt: AttemptId,
    node: &mut Arc<str>,
) -> Option<OneshotWatcher> {
    let (session, connection) = (session.upgrade()?, connection.upgrade()?);
    if !session.attempts().is_wanted(attempt) {
        return None;
    }
    let operation = connection.operation().await.ok()?;
    let client = &*operation.client;
    let mut watched = answer(client.check_and_watch_stat(node)).await;
    let pending = session.attempts().pending_downgrade(attempt);
    match (&watched, pending) {
        (Ok((None, _)), Some(reader)) => {
            watched = answer(client.check_and_watch_stat(&reader)).await;
            if let Ok((Some(stat), _)) = &watched {
                let mut attempts = session.attempts();
                attempts.downgraded(attempt, &reader, stat, connection.number);
                *node = reader;
            }
        }
        // A downgrade that was sent on an earlier connection is not carried out any more.
        (Ok((Some(_), _)), Some(_)) => {
            let mut attempts = session.attempts();
            attempts.end_downgrade(attempt, connection.number - 1);
        }
        _ => {}
    }
    let (stat, watcher) = match watched {
        Ok(answer) => answer,
        Err(error) => {
            // Others rely on these watches, so the next connection looks everything up again.
            tracing::debug!(?error, "a node could not be watched");
            connection.abandon();
            return None;
        }
    };
    if session
        .attempts()
        .is_being_replaced(attempt, node, connection.number)
    {
        // The downgrade watches the new node.
        return None;
    }
    session.own_node_seen(&connection, attempt, stat.as_ref());
    let stat = stat?;
    if !session.attempts().is_own_version(attempt, stat.version) {
        validate_record(&session, &connection, attempt, node).await;
    }
    Some(watcher)
}

/// Notes a change of an attempt's own node. Returns whether to watch it again.
fn own_node_changed(
    session: &Weak<Session>,
    attempt: AttemptId,
    node: &str,
    connection: u64,
    event: EventType,
) -> bool {
    let Some(session) = session.upgrade() else {
        return false;
    };
    let replaced = session
        .attempts()
        .is_being_replaced(attempt, node, connection);
    match event {
        // The downgrade finds out what has become of the node, and watches the new one.
        _ if replaced => false,
        EventType::Session => false,
        EventType::NodeDeleted => {
            let lost = session.attempts().gone(attempt, LossReason::Evicted);
            session.emit(lost);
            session.note_checked();
            false
        }
        _ => {
            let mut attempts = session.attempts();
            attempts.unwatched(attempt);
            if !attempts.has_marked(attempt) {
                attempts.set_data_error(attempt, Some(overwritten(node)));
            }
            true
        }
    }
}

/// Reads the data of an attempt's own node after a program wrote to it, and notes whether it is
/// still the record of that attempt.
async fn validate_record(
    session: &Session,
    connection: &Connection,
    attempt: AttemptId,
    node: &str,
) {
    let floor = session.config.context.token_floor;
    let verdict = match connection.read_one(node).await {
        Ok(Some(read)) => match record::holder(OPERATION, node, &read, floor) {
            Ok(holder) if holder.attempt == Some(attempt) => None,
            Ok(_) => Some(overwritten(node)),
            Err(error) => Some(error),
        },
        // This client may no longer read the node, or the node is gone.
        Ok(None) | Err(_) => return,
    };
    session.attempts().set_data_error(attempt, verdict);
}

fn overwritten(node: &str) -> Error {
    error(
        ErrorKind::Corrupt,
        OPERATION,
        format!("another program has overwritten the data of `{node}`"),
    )
}
