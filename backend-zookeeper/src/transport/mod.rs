//! Connections: one `zookeeper_client::Client` is one TCP connection here.
//!
//! The crate's client reconnects by itself. This driver does not let it: it owns the client's task
//! ([`task`]), polls it until the connection is lost, and then drops it. So a connection is never
//! repaired, each [`Connection`] object is one TCP connection, and a request that was not written
//! when the connection broke is never sent. ADR 0008 says which clauses need that.

mod background;
pub(crate) mod connect;
mod diagnose;
mod task;
mod tls;

use std::{
    fmt,
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tenure_core::clock::{Clock, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use zookeeper_client::{Client, Error as ZkError, MultiReadResult, SessionState, StateWatcher};

use self::task::ClientTask;
use crate::{error::RequestError, record::Node, session::time::until};

/// How many operations have requests under way at once. A heartbeat waits for the answers to what was
/// sent before it, so this bounds how long a server that is not silent leaves one unanswered: a server
/// that needs 5 ms for an answer leaves one unanswered for a third of a second.
const MAX_OPERATIONS: usize = 64;

/// How many nodes one request reads.
const MAX_READS: usize = 64;

/// The client of a connection. The crate closes a session when its last client is dropped while its task
/// is polled, so the client is taken out to end the session, and otherwise outlives the task.
type SharedClient = Arc<Mutex<Option<Arc<Client>>>>;

/// A connection that carries a session.
pub(crate) struct Connection {
    /// Its number among the connections of its session, from 1.
    pub(crate) number: u64,
    /// The session's id.
    pub(crate) session_id: i64,
    client: SharedClient,
    lost: watch::Sender<bool>,
    background: mpsc::UnboundedSender<BoxFuture<'static, ()>>,
    operations: Arc<Semaphore>,
}

/// One of the operations that have requests under way. It is kept until they are answered. While a caller
/// keeps one, it does not begin a second one.
pub(crate) struct Operation {
    pub(crate) client: Arc<Client>,
    _permit: OwnedSemaphorePermit,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("number", &self.number)
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Starts to serve a connection that was just made.
    fn serve(client: Client, task: ClientTask, number: u64) -> Arc<Self> {
        let (background, incoming) = mpsc::unbounded_channel();
        let lost = watch::Sender::new(false);
        let (states, session_id) = (client.state_watcher(), client.session_id().0);
        let client = Arc::new(Mutex::new(Some(Arc::new(client))));
        tokio::spawn({
            let (client, lost) = (Arc::clone(&client), lost.clone());
            async move {
                serve(states, task, lost, incoming).await;
                drop(client);
            }
        });
        Arc::new(Self {
            number,
            session_id,
            client,
            lost,
            background,
            operations: Arc::new(Semaphore::new(MAX_OPERATIONS)),
        })
    }

    /// The client, to send requests with at once: heartbeats, and what a new connection begins with. It sends each request when the method is called, in the
    /// order of the calls.
    pub(crate) fn client(&self) -> Result<Arc<Client>, RequestError> {
        if self.is_lost() {
            return Err(RequestError::NotSent);
        }
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        client.as_ref().map(Arc::clone).ok_or(RequestError::NotSent)
    }

    /// Begins one of many operations, once it may send requests.
    pub(crate) async fn operation(&self) -> Result<Operation, RequestError> {
        let permit = Arc::clone(&self.operations).acquire_owned().await;
        let permit = permit.map_err(|_| RequestError::NotSent)?;
        Ok(Operation {
            client: self.client()?,
            _permit: permit,
        })
    }

    /// The same, but not later than at `limit`.
    pub(crate) async fn operation_by(
        &self,
        clock: &dyn Clock,
        limit: Instant,
    ) -> Result<Operation, RequestError> {
        let operation = until(clock, limit, self.operation()).await;
        operation.unwrap_or(Err(RequestError::NotSent))
    }

    /// Runs a future for as long as the connection lasts.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        // Without a connection there is nothing for it to do.
        let _ = self.background.send(Box::pin(future));
    }

    pub(crate) fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Returns once the connection is lost.
    pub(crate) async fn lost(&self) {
        let _ = self.lost.subscribe().wait_for(|lost| *lost).await;
    }

    /// Drops the connection without a message to the server. Unanswered requests stay unanswered.
    pub(crate) fn abandon(&self) {
        self.lost.send_replace(true);
    }

    /// Ends the session. Returns once the server has closed the connection.
    pub(crate) async fn close(&self) {
        let client = self
            .client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(client);
        self.lost().await;
    }

    /// Reads nodes; `None` for a node that is gone.
    ///
    /// It does not use `Client::get_data`, which panics on a malformed answer.
    pub(crate) async fn read(
        &self,
        paths: &[impl AsRef<str>],
    ) -> Result<Vec<Result<Option<Node>, RequestError>>, RequestError> {
        let mut nodes = Vec::with_capacity(paths.len());
        for part in paths.chunks(MAX_READS) {
            let client = self.client()?;
            let mut reader = client.new_multi_reader();
            for path in part {
                reader.add_get_data(path.as_ref())?;
            }
            let answers = answer(reader.commit()).await?;
            if answers.len() != part.len() {
                return Err(RequestError::Malformed);
            }
            nodes.extend(answers.into_iter().map(|answer| match answer {
                MultiReadResult::Data { data, stat } => Ok(Some(Node { data, stat })),
                MultiReadResult::Error {
                    err: ZkError::NoNode,
                } => Ok(None),
                MultiReadResult::Error { err } => Err(err.into()),
                _ => Err(RequestError::Malformed),
            }));
        }
        Ok(nodes)
    }

    /// Reads one node; `None` if it is gone.
    pub(crate) async fn read_one(&self, path: &str) -> Result<Option<Node>, RequestError> {
        let mut nodes = self.read(&[path]).await?;
        nodes.pop().unwrap_or(Err(RequestError::Malformed))
    }
}

/// Waits for the answer to a request of [`Connection::client`].
pub(crate) async fn answer<T>(
    request: impl Future<Output = Result<T, ZkError>>,
) -> Result<T, RequestError> {
    request.await.map_err(RequestError::from)
}

/// Deletes a node; `false` if it was not there.
pub(crate) async fn delete(client: &Client, node: &str) -> Result<bool, RequestError> {
    match answer(client.delete(node, None)).await {
        Ok(()) => Ok(true),
        Err(RequestError::Refused(ZkError::NoNode)) => Ok(false),
        Err(failure) => Err(failure),
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Polls the client's task and the futures of a connection until the connection is lost.
///
/// All run in one task, so a request that a future sends in answer to an event is written without
/// waking another task.
async fn serve(
    mut states: StateWatcher,
    mut task: ClientTask,
    lost: watch::Sender<bool>,
    mut incoming: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>,
) {
    let mut futures = FuturesUnordered::new();
    let mut abandoned = lost.subscribe();
    let serving = poll_fn(|context| {
        if task.poll(context).is_ready() || states.state() != SessionState::SyncConnected {
            return Poll::Ready(());
        }
        loop {
            while let Poll::Ready(Some(future)) = incoming.poll_recv(context) {
                futures.push(future);
            }
            match futures.poll_next_unpin(context) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    });
    tokio::select! {
        biased;
        _ = abandoned.wait_for(|lost| *lost) => {}
        () = serving => {}
    }
    lost.send_replace(true);
    // A watcher that is polled after the task was dropped panics, so the watchers go first.
    drop(futures);
    drop(task);
}
