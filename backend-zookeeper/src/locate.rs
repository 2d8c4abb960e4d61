//! Finding out where an attempt stands in its queue, and watching what is in front of it.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::join_all;
use tenure_core::{
    error::Error, id::AttemptId, loss::LossReason, request::Holder, token::FencingToken,
};
use zookeeper_client::{Client, Error as ZkError, Stat};

use crate::{
    error::{RequestError, of_read},
    keys,
    order::{Behind, Standing, standing},
    queue::{Position, Predecessor, Watch},
    record,
    session::Session,
    transport::{Connection, answer},
};

const OPERATION: &str = "acquiring";

/// How often the queue is read again because the node in front was deleted in between.
const MAX_ROUNDS: usize = 16;

/// How many nodes are watched at once.
const MAX_WATCHES: usize = 64;

/// Where an attempt stands.
#[derive(Debug)]
pub(crate) enum Located {
    Admitted,
    Waiting,
    Gone,
}

/// The children of a lock's node, and the node's stat.
pub(crate) type Listing = (Vec<String>, Stat);

/// Reads the queue and notes the attempt's position. A waiter's own node and the nodes in front of it
/// that concern it are watched from then on. One round takes one request, or two in a row for a waiter and
/// for an attempt that shares the lock with holders ahead. With `strict` a holder whose state cannot be
/// read is an error.
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
    let mut marked = None;
    for _ in 0..MAX_ROUNDS {
        let (lock, node) = {
            let attempts = session.attempts();
            if attempts.pending_downgrade(attempt).is_some() {
                return Ok(Located::Admitted);
            }
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
        let queue = match standing(&children, record::child_of(&node)) {
            Standing::Missing => {
                let lost = {
                    let mut attempts = session.attempts();
                    if attempts.is_being_replaced(attempt, &node, connection.number) {
                        continue;
                    }
                    attempts.gone(attempt, LossReason::Evicted)
                };
                session.emit(lost);
                return Ok(Located::Gone);
            }
            Standing::Admitted { first: None, mark } => {
                session.attempts().set_admitted(attempt, None, mark);
                return Ok(Located::Admitted);
            }
            Standing::Admitted {
                first: Some(first),
                mark,
            } => {
                let first = format!("{lock}/{first}");
                let floor = token_at(session, connection, &first)
                    .await
                    .map_err(|failure| of_read(OPERATION, &first, failure))?;
                if floor.is_none() {
                    continue;
                }
                session.attempts().set_admitted(attempt, floor, mark);
                return Ok(Located::Admitted);
            }
            Standing::Behind(behind) => Queue::new(&lock, node, &behind, stat.pzxid, strict),
        };
        if let Some(located) = queue
            .watch(session, connection, attempt, &mut marked)
            .await?
        {
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
    /// The nodes ahead to watch, the nearest first.
    watched: Vec<Arc<str>>,
    awaits_mark: bool,
    first: String,
    ahead: u64,
    as_of: i64,
    /// Whether a first node that cannot be read is an error.
    strict: bool,
}

impl Queue {
    fn new(lock: &str, own: Arc<str>, behind: &Behind<'_>, as_of: i64, strict: bool) -> Self {
        let watched = behind.watched.iter();
        Self {
            own,
            watched: watched
                .map(|name| format!("{lock}/{name}").into())
                .collect(),
            awaits_mark: behind.awaits_mark,
            first: format!("{lock}/{}", behind.first),
            ahead: behind.ahead,
            as_of,
            strict,
        }
    }

    /// Sends its requests at once: watches the own node and those in front, where they are not
    /// watched yet, and reads the first one. `None`: the queue has to be read again, because a node in
    /// front is gone, or is marked now. `marked` is the node that was read again for its mark: it is
    /// not read a third time, because another program may have written to it.
    async fn watch(
        self,
        session: &Arc<Session>,
        connection: &Arc<Connection>,
        attempt: AttemptId,
        marked: &mut Option<Arc<str>>,
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
        let running = session
            .attempts()
            .running_watches(attempt, connection.number);
        let running: HashMap<&str, &Arc<Watch>> =
            running.iter().map(|watch| (&*watch.node, watch)).collect();
        let watch = |node| watch_ahead(session, connection, client, attempt, node, &running);
        let ahead = async {
            let mut watched = Vec::with_capacity(self.watched.len());
            for part in self.watched.chunks(MAX_WATCHES) {
                watched.extend(join_all(part.iter().map(watch)).await);
            }
            watched
        };
        let shown = connection.read_one(&self.first);
        let (own, ahead, shown) = futures_util::join!(own, ahead, shown);
        drop(operation);
        if !own.map_err(failed)? {
            return Ok(Some(Located::Gone));
        }
        let mut watches = Vec::with_capacity(ahead.len());
        for watched in ahead {
            match watched.map_err(failed)? {
                Ahead::Gone => return Ok(None),
                Ahead::Watched { watch, is_written } => {
                    let is_marked = self.awaits_mark && is_written;
                    if is_marked && marked.as_ref() != Some(&watch.node) {
                        *marked = Some(Arc::clone(&watch.node));
                        return Ok(None);
                    }
                    watches.push(watch);
                }
            }
        }
        let holder = match holder(session, &self.first, shown) {
            Err(error) if self.strict => return Err(error),
            holder => holder.unwrap_or_default(),
        };
        let predecessor = Predecessor {
            watches,
            ahead: self.ahead,
            holder,
            as_of: self.as_of,
        };
        let current = session.attempts().set_waiting(attempt, predecessor);
        Ok(current.then_some(Located::Waiting))
    }
}

/// A node ahead of a waiter.
enum Ahead {
    Gone,
    Watched {
        watch: Arc<Watch>,
        /// Whether the node was written since it was created.
        is_written: bool,
    },
}

/// Watches a node ahead of a waiter, unless one of the running watches does so already.
async fn watch_ahead(
    session: &Arc<Session>,
    connection: &Arc<Connection>,
    client: &Client,
    attempt: AttemptId,
    node: &Arc<str>,
    running: &HashMap<&str, &Arc<Watch>>,
) -> Result<Ahead, RequestError> {
    if let Some(watch) = running.get(&**node) {
        return Ok(Ahead::Watched {
            watch: Arc::clone(watch),
            is_written: false,
        });
    }
    let answer = answer(client.check_and_watch_stat(node));
    let (stat, watcher) = answer.await?;
    let Some(stat) = stat else {
        return Ok(Ahead::Gone);
    };
    Ok(Ahead::Watched {
        watch: session.follow_ahead(connection, attempt, Arc::clone(node), watcher),
        is_written: stat.version != 0,
    })
}

/// The token of a contender; `None` if it is gone. Needs no right on its node.
pub(crate) async fn token_at(
    session: &Session,
    connection: &Connection,
    path: &str,
) -> Result<Option<FencingToken>, RequestError> {
    let floor = session.config.context.token_floor;
    if let Some(czxid) = keys::parse(record::child_of(path)).exclusive_czxid {
        return Ok(Some(record::token(czxid, floor)));
    }
    let operation = connection.operation().await?;
    let stat = answer(operation.client.check_stat(path)).await?;
    Ok(stat.map(|stat| record::token(stat.czxid, floor)))
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
