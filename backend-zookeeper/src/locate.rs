//! Finding out where an attempt stands in its queue, and watching what is in front of it.

use std::sync::Arc;

use futures_util::future::OptionFuture;
use tenure_core::{error::Error, id::AttemptId, loss::LossReason, request::Holder};
use tokio::sync::oneshot;
use zookeeper_client::{Error as ZkError, Stat};

use crate::{
    error::{RequestError, of_read},
    queue::{Position, Predecessor, Standing, standing},
    record,
    session::Session,
    transport::Connection,
};

const OPERATION: &str = "acquiring";

/// How often the queue is read again because the node in front was deleted in between.
const MAX_ROUNDS: usize = 16;

/// Where an attempt stands.
#[derive(Debug)]
pub(crate) enum Located {
    First,
    Waiting,
    Gone,
}

/// The children of a lock's node, and the node's stat.
pub(crate) type Listing = (Vec<String>, Stat);

/// Reads the queue and notes the attempt's position. A waiter's own node and the node in front of it
/// are watched from then on. One round takes one request, or two in a row for a waiter. With `strict` a
/// holder whose state cannot be read is an error.
///
/// # Errors
///
/// A holder's state that cannot be read, a missing right, or a lost connection.
pub(crate) async fn locate(
    session: &Arc<Session>,
    connection: &Arc<Connection>,
    attempt: AttemptId,
    mut listing: Option<Listing>,
    strict: bool,
) -> Result<Located, Error> {
    for _ in 0..MAX_ROUNDS {
        let (lock, node) = {
            let attempts = session.attempts();
            match attempts.get(attempt) {
                Some(entry) if !matches!(entry.position, Position::Gone(_)) => {
                    (Arc::clone(&entry.lock), entry.node.clone())
                }
                _ => return Ok(Located::Gone),
            }
        };
        let Some(node) = node else {
            return Ok(Located::Gone);
        };
        let (children, stat) = match listing.take() {
            Some(listing) => listing,
            None => list(connection, &lock)
                .await
                .map_err(|failure| of_read(OPERATION, &lock, failure))?,
        };
        let own = node.rsplit('/').next().unwrap_or_default();
        let queue = match standing(&children, own) {
            Standing::Missing => {
                let lost = session.attempts().gone(attempt, LossReason::Evicted);
                session.emit(lost);
                return Ok(Located::Gone);
            }
            Standing::First => {
                session.attempts().set_first(attempt);
                return Ok(Located::First);
            }
            Standing::Behind { next, first, ahead } => Queue {
                own: node,
                next: format!("{lock}/{next}").into(),
                first: format!("{lock}/{first}"),
                ahead,
                as_of: stat.pzxid,
                strict,
            },
        };
        if let Some(located) = queue.watch(session, connection, attempt).await? {
            return Ok(located);
        }
    }
    // The nodes in front are deleted faster than the queue can be read. The next report reads it
    // again.
    Ok(Located::Waiting)
}

/// The nodes of a queue that concern a waiter.
struct Queue {
    own: Arc<str>,
    /// The node in front of the own one.
    next: Arc<str>,
    first: String,
    ahead: u64,
    as_of: i64,
    /// Whether a first node that cannot be read is an error.
    strict: bool,
}

impl Queue {
    /// Sends three requests at once: watches the own node, watches the node in front, and reads the
    /// first one. `None`: the node in front is gone.
    async fn watch(
        self,
        session: &Arc<Session>,
        connection: &Arc<Connection>,
        attempt: AttemptId,
    ) -> Result<Option<Located>, Error> {
        let failed = |failure: RequestError| of_read(OPERATION, &self.first, failure);
        let client = connection.client().map_err(failed)?;
        let watched = {
            let attempts = session.attempts();
            let entry = attempts.get(attempt);
            entry.is_some_and(|entry| entry.watched_on == connection.number)
        };
        let own = (!watched).then(|| connection.answer(client.check_and_watch_stat(&self.own)));
        let next = connection.answer(client.check_and_watch_stat(&self.next));
        let own = OptionFuture::from(own);
        let shown = connection.read_one(&self.first);
        let (own, next, shown) = futures_util::join!(own, next, shown);
        if let Some(own) = own {
            let (stat, watcher) = own.map_err(failed)?;
            session.own_node_seen(connection, attempt, stat.as_ref());
            if stat.is_none() {
                return Ok(Some(Located::Gone));
            }
            session.watch_own_node(connection, attempt, self.own, Some(watcher));
        }
        let (stat, watcher) = next.map_err(failed)?;
        if stat.is_none() {
            return Ok(None);
        }
        let holder = match holder(session, &self.first, shown) {
            Err(error) if self.strict => return Err(error),
            holder => holder.unwrap_or_default(),
        };
        let (watch, ended) = oneshot::channel();
        let predecessor = Predecessor {
            node: Arc::clone(&self.next),
            ahead: self.ahead,
            holder,
            as_of: self.as_of,
            watch,
        };
        session.attempts().set_waiting(attempt, predecessor);
        session.follow_predecessor(connection, attempt, self.next, watcher, ended);
        Ok(Some(Located::Waiting))
    }
}

/// The holder, read from the first node of the queue; `None` if it is gone or this client may not read it.
pub(crate) fn holder(
    session: &Session,
    path: &str,
    read: Result<Option<record::Node>, RequestError>,
) -> Result<Option<Holder>, Error> {
    let floor = session.config.context.token_floor;
    match read {
        Ok(Some(node)) => record::holder(OPERATION, path, &node, floor).map(Some),
        Ok(None) | Err(_) => Ok(None),
    }
}

/// Lists the children of a lock's node; none if the node is gone.
pub(crate) async fn list(connection: &Connection, lock: &str) -> Result<Listing, RequestError> {
    let client = connection.client()?;
    match connection.answer(client.get_children(lock)).await {
        Err(RequestError::Refused(ZkError::NoNode)) => Ok((Vec::new(), absent())),
        listing => listing,
    }
}

/// The stat of a node that is gone.
const fn absent() -> Stat {
    Stat {
        czxid: 0,
        mzxid: 0,
        pzxid: 0,
        ctime: 0,
        mtime: 0,
        version: 0,
        cversion: 0,
        aversion: 0,
        ephemeral_owner: 0,
        data_length: 0,
        num_children: 0,
    }
}
