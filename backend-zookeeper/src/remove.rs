//! Removing an attempt, whether it holds, waits, or may yet enter the queue.
//!
//! Nothing of an attempt can enter the queue after its removal was answered, for these reasons. Only
//! requests `create` of its own session make a node for it, and none is sent after the removal began.
//! For each of them:
//!
//! - On the same connection the servers carry out the requests of a session in the order in which they
//!   were sent. So the list that the removal asks for comes after the `create`.
//! - On a later connection to another server: the leader has registered that server as the owner of
//!   the session and refuses what the earlier server forwards for it (`SESSION_MOVED`). The `sync`
//!   before the list waits for what the leader carried out before.
//! - On a later connection to the same server: the server closed the earlier connection when the
//!   session was resumed, and reads nothing more from it.
//! - A session that has ended takes its nodes with it, and the servers refuse its requests.

use std::sync::Arc;

use tenure_core::{
    error::Error,
    id::AttemptId,
    loss::LossReason,
    request::{Remove, Removed},
};
use zookeeper_client::Client;

use crate::{
    enqueue::find,
    error::{of_read, of_write, unanswered},
    queue::Position,
    session::time::until,
    shared::Shared,
    transport::delete,
};

const OPERATION: &str = "releasing";

/// Removes, within the time limit of a request.
pub(crate) async fn remove(shared: &Arc<Shared>, request: &Remove) -> Result<Removed, Error> {
    let attempt = request.attempt;
    if !request.outcome_known {
        shared.fence(attempt);
    }
    let Some(session) = shared.session_of(attempt) else {
        return remove_unregistered(shared, request).await;
    };
    let known = session.begin_removal(attempt, |entry| Known {
        lock: Arc::clone(&entry.lock),
        nodes: entry.nodes().map(Arc::clone).collect(),
        held: matches!(entry.position, Position::Admitted),
        // A malformed answer may have been taken for the end of a node, so a node that is known is
        // deleted nevertheless.
        gone: match entry.position {
            Position::Gone(LossReason::Closed) => true,
            Position::Gone(_) => entry.node.is_none(),
            _ => false,
        },
    });
    let known = match known {
        Some(known) if !known.gone && !session.is_ended() => known,
        _ => {
            shared.forget(attempt);
            return Ok(Removed::Absent);
        }
    };
    let limit = shared.config.request_limit();
    if session.connected().is_none() {
        // A session that was left to expire is resumed, to learn whether it has expired.
        session.touch();
    }
    let connection = match session.connection(OPERATION, limit).await {
        Ok(connection) => connection,
        Err(_) if session.is_ended() => {
            shared.forget(attempt);
            return Ok(Removed::Absent);
        }
        Err(error) => return Err(error),
    };
    let clock = &*shared.config.context.clock;
    let operation = connection.operation_by(clock, limit).await;
    let operation = operation.map_err(|failure| of_write(OPERATION, &known.lock, failure))?;
    let mut removing = connection.start({
        let session = Arc::clone(&session);
        |answer| async move {
            let removed = known.remove(&operation.client, attempt).await;
            drop(operation);
            if removed.is_ok() {
                // For a repeated removal, if the caller of this one no longer waits.
                session.attempts().gone(attempt, LossReason::Closed);
            }
            let _ = answer.send(removed);
        }
    });
    match removing.until(clock, limit).await.flatten() {
        Some(Ok(removed)) => {
            shared.forget(attempt);
            Ok(removed)
        }
        _ if session.is_ended() => {
            shared.forget(attempt);
            Ok(Removed::Absent)
        }
        Some(Err(error)) => Err(error),
        None => Err(unanswered(OPERATION)),
    }
}

/// The state of an attempt that is to be removed.
struct Known {
    lock: Arc<str>,
    /// The attempt's own node, once it is known, and the one that a downgrade may have put into its place.
    nodes: Vec<Arc<str>>,
    held: bool,
    gone: bool,
}

impl Known {
    async fn remove(&self, client: &Client, attempt: AttemptId) -> Result<Removed, Error> {
        if self.nodes.is_empty() {
            return search_and_delete(client, &self.lock, attempt).await;
        }
        let mut found = false;
        for node in &self.nodes {
            let deleted = delete(client, node).await;
            found |= deleted.map_err(|failure| of_write(OPERATION, node, failure))?;
        }
        Ok(match (found, self.held) {
            (false, _) => Removed::Absent,
            (true, true) => Removed::AsHolder,
            (true, false) => Removed::AsWaiter,
        })
    }
}

/// Removes an attempt that is not registered here: another client's, or one that was removed before.
async fn remove_unregistered(shared: &Shared, request: &Remove) -> Result<Removed, Error> {
    let limit = shared.config.request_limit();
    let (connection, _permit) = shared.reader(OPERATION).await?;
    let lock = shared.keys.lock(&request.name);
    let clock = &*shared.config.context.clock;
    let operation = connection.operation_by(clock, limit).await;
    let operation = operation.map_err(|failure| of_write(OPERATION, &lock, failure))?;
    let removing = search_and_delete(&operation.client, &lock, request.attempt);
    let removed = until(clock, limit, removing).await;
    removed.ok_or_else(|| unanswered(OPERATION))?
}

/// Looks for the nodes of an attempt, and deletes them.
async fn search_and_delete(
    client: &Client,
    lock: &str,
    attempt: AttemptId,
) -> Result<Removed, Error> {
    let found = find(client, lock, attempt)
        .await
        .map_err(|failure| of_read(OPERATION, lock, failure))?;
    let mut removed = Removed::Absent;
    for (node, holds) in found {
        let deleted = delete(client, &node).await;
        if deleted.map_err(|failure| of_write(OPERATION, &node, failure))? {
            removed = match (holds, removed) {
                (false, Removed::Absent) => Removed::AsWaiter,
                (false, earlier) => earlier,
                (true, _) => Removed::AsHolder,
            };
        }
    }
    Ok(removed)
}
