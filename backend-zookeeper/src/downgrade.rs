//! Turning an exclusive grant into a shared one.
//!
//! A reader's node with the sequence number of the writer's node takes its place, in one transaction.
//! So no contender comes in between. Before it deletes the writer's node, the transaction writes to it.
//! That uses up the watches of that node as "data changed", so a waiter reads the queue again. On "deleted"
//! it would assume that its predecessor is gone.

use std::sync::Arc;

use tenure_core::{
    error::Error,
    id::AttemptId,
    loss::LossReason,
    request::{Downgrade, Downgraded},
};
use zookeeper_client::{Client, CreateMode, CreateOptions, Error as ZkError};

use crate::{
    error::{RequestError, of_read, of_write, unanswered},
    session::{Session, attempts::DowngradeStep},
    shared::Shared,
    transport::{Connection, Operation, answer},
};

const OPERATION: &str = "downgrading";

/// Downgrades, within the time limit of a request.
pub(crate) async fn downgrade(
    shared: &Arc<Shared>,
    request: &Downgrade,
) -> Result<Downgraded, Error> {
    let attempt = request.attempt;
    let Some(session) = shared.session_of(attempt) else {
        return Ok(Downgraded::Gone(LossReason::Evicted));
    };
    session.touch();
    let limit = shared.config.request_limit();
    let connection = session.connection(OPERATION, limit).await;
    let step = session.attempts().downgrade_step(attempt, request.token);
    let (node, reader) = match step {
        DowngradeStep::Gone(reason) => return Ok(Downgraded::Gone(reason)),
        DowngradeStep::Shared => return Ok(Downgraded::Shared),
        DowngradeStep::Replace(node, reader) => (node, reader),
    };
    let connection = connection?;
    let clock = &*shared.config.context.clock;
    let operation = connection.operation_by(clock, limit).await;
    let operation = operation.map_err(|failure| of_read(OPERATION, &node, failure))?;
    let replacing = Replacing {
        shared: Arc::clone(shared),
        session,
        connection: Arc::clone(&connection),
        attempt,
        node,
        reader,
    };
    let mut running = connection.start(|answer| async move {
        let _ = answer.send(replacing.run(operation).await);
    });
    let answer = running.until(clock, limit).await.flatten();
    answer.unwrap_or_else(|| Err(unanswered(OPERATION)))
}

/// A downgrade under way.
struct Replacing {
    shared: Arc<Shared>,
    session: Arc<Session>,
    connection: Arc<Connection>,
    attempt: AttemptId,
    /// The writer's node.
    node: Arc<str>,
    /// The reader's node.
    reader: Arc<str>,
}

impl Replacing {
    async fn run(self, operation: Operation) -> Result<Downgraded, Error> {
        let number = self.connection.number;
        let failed = |failure| of_read(OPERATION, &self.node, failure);
        let client = &*operation.client;
        let data = self.connection.read_one(&self.node).await.map_err(failed)?;
        // An earlier copy of the request may have replaced the writer's node already.
        let data = data.map(|node| node.data);
        let acls = self.shared.config.options.acls();
        let options = CreateMode::Ephemeral.with_acls(acls);
        let (replaced, seen) = {
            let mut attempts = self.session.attempts();
            if !attempts.begin_downgrade(self.attempt, &self.reader, number) {
                return Ok(Downgraded::Gone(LossReason::Closed));
            }
            let replaced = data.map(|data| self.replace(client, &data, &options));
            (replaced, client.check_and_watch_stat(&self.reader))
        };
        let replaced = match replaced {
            Some(replaced) => Some(replaced.await),
            None => None,
        };
        let (session, connection) = (&self.session, &self.connection);
        // The reader's node alone says whether it was carried out, by this request or by an earlier one.
        match answer(seen).await {
            Ok((Some(stat), watcher)) => {
                let mut attempts = session.attempts();
                attempts.downgraded(self.attempt, &self.reader, &stat, number);
                drop(attempts);
                session.own_node_seen(connection, self.attempt, Some(&stat));
                let reader = Arc::clone(&self.reader);
                session.watch_own_node(connection, self.attempt, reader, Some(watcher));
                Ok(Downgraded::Shared)
            }
            Ok((None, _)) => match replaced {
                Some(Err(RequestError::Refused(refusal))) if refusal != ZkError::NoNode => {
                    session.attempts().end_downgrade(self.attempt, number);
                    let node = Arc::clone(&self.node);
                    session.watch_own_node(connection, self.attempt, node, None);
                    Err(of_write(
                        OPERATION,
                        &self.reader,
                        RequestError::Refused(refusal),
                    ))
                }
                None | Some(Ok(()) | Err(RequestError::Refused(_))) => {
                    let lost = session.attempts().gone(self.attempt, LossReason::Evicted);
                    session.emit(lost);
                    Ok(Downgraded::Gone(LossReason::Evicted))
                }
                Some(Err(_)) => Err(self.give_up()),
            },
            Err(_) => Err(self.give_up()),
        }
    }

    /// Sends the transaction.
    fn replace<'a>(
        &self,
        client: &'a Client,
        data: &[u8],
        options: &CreateOptions<'_>,
    ) -> impl Future<Output = Result<(), RequestError>> + Send + use<'a> {
        let mut writer = client.new_multi_writer();
        let added = writer
            .add_create(&self.reader, data, options)
            .and_then(|()| writer.add_set_data(&self.node, data, None))
            .and_then(|()| writer.add_delete(&self.node, None));
        let sent = added.map(|()| writer.commit());
        async move {
            let replaced = sent?.await;
            replaced.map_err(|failure| RequestError::from(ZkError::from(failure)))?;
            Ok(())
        }
    }

    /// The outcome is not known. The next connection looks up both nodes.
    fn give_up(&self) -> Error {
        self.connection.abandon();
        unanswered(OPERATION)
    }
}
