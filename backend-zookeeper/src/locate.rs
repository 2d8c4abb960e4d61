//! Finding out where an attempt stands in its queue, and watching what is in front of it.

use std::sync::Arc;

use futures_util::future::OptionFuture;
use tenure_core::{error::Error, id::AttemptId, loss::LossReason, request::Holder};
use zookeeper_client::{Client, Error as ZkError, Stat};

use crate::{
    error::{RequestError, of_read},
    queue::{Position, Predecessor, Standing, Watch, standing},
    record,
    session::Session,
    transport::{Connection, answer},
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
            Standing::Behind {
                next,
                second,
                first,
                ahead,
            } => Queue {
                own: node,
                next: format!("{lock}/{next}").into(),
                second: second.map(|second| format!("{lock}/{second}").into()),
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
    /// The nearest node ahead of the own one, and the second nearest.
    next: Arc<str>,
    second: Option<Arc<str>>,
    first: String,
    ahead: u64,
    as_of: i64,
    /// Whether a first node that cannot be read is an error.
    strict: bool,
}

impl Queue {
    /// Sends its requests at once: watches the own node and the two in front, where they are not
    /// watched yet, and reads the first one. `None`: a node in front is gone.
    async fn watch(
        self,
        session: &Arc<Session>,
        connection: &Arc<Connection>,
        attempt: AttemptId,
    ) -> Result<Option<Located>, Error> {
        let failed = |failure: RequestError| of_read(OPERATION, &self.first, failure);
        let operation = connection.operation().await.map_err(failed)?;
        let client = &*operation.client;
        let watched = {
            let attempts = session.attempts();
            let entry = attempts.get(attempt);
            entry.is_some_and(|entry| entry.watched_on == connection.number)
        };
        let own = (!watched).then(|| answer(client.check_and_watch_stat(&self.own)));
        // Follows the own node from the moment of its answer, before the nodes ahead, so that its
        // deletion is handled before a later deletion of theirs (W4).
        let own = async {
            let Some(own) = own else {
                return Ok(true);
            };
            let (stat, watcher) = own.await?;
            session.own_node_seen(connection, attempt, stat.as_ref());
            if stat.is_some() {
                let node = Arc::clone(&self.own);
                session.watch_own_node(connection, attempt, node, Some(watcher));
            }
            Ok::<_, RequestError>(stat.is_some())
        };
        let ahead = |node| watch_ahead(session, connection, client, attempt, node);
        let next = ahead(&self.next);
        let second = self.second.as_ref().map(ahead);
        let second = OptionFuture::from(second);
        let shown = connection.read_one(&self.first);
        let (own, next, second, shown) = futures_util::join!(own, next, second, shown);
        drop(operation);
        if !own.map_err(failed)? {
            return Ok(Some(Located::Gone));
        }
        let Some(next) = next.map_err(failed)? else {
            return Ok(None);
        };
        let second = match second {
            None => None,
            Some(second) => match second.map_err(failed)? {
                None => return Ok(None),
                second => second,
            },
        };
        let holder = match holder(session, &self.first, shown) {
            Err(error) if self.strict => return Err(error),
            holder => holder.unwrap_or_default(),
        };
        let predecessor = Predecessor {
            next,
            second,
            ahead: self.ahead,
            holder,
            as_of: self.as_of,
        };
        let current = session.attempts().set_waiting(attempt, predecessor);
        Ok(current.then_some(Located::Waiting))
    }
}

/// Watches a node ahead of a waiter, unless the waiter does so already. `None`: the node is gone.
async fn watch_ahead(
    session: &Arc<Session>,
    connection: &Arc<Connection>,
    client: &Client,
    attempt: AttemptId,
    node: &Arc<str>,
) -> Result<Option<Arc<Watch>>, RequestError> {
    let kept = session
        .attempts()
        .watch_of(attempt, node, connection.number);
    if kept.is_some() {
        return Ok(kept);
    }
    let answer = answer(client.check_and_watch_stat(node));
    let (stat, watcher) = answer.await?;
    Ok(stat.map(|_| session.follow_ahead(connection, attempt, Arc::clone(node), watcher)))
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
    let operation = connection.operation().await?;
    match answer(operation.client.get_children(lock)).await {
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
