//! The client library of the line server. It is not part of the backend and does not depend on it.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tenure::{
    queue::{ClockId, Now, Queue, Stamp},
    request::{Holder, StoreTime},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, tcp::OwnedReadHalf},
    sync::{mpsc, oneshot},
    task::AbortHandle,
};

use crate::wire::{ClientRequest, Operation, Outcome, ServerMessage, Session};

/// The reason why a request has no response.
pub(crate) enum CallError {
    /// The connection broke before the request was sent.
    NotSent,
    /// The connection broke before the response arrived.
    NoResponse,
    /// The password is wrong.
    Refused,
}

/// The response to a request.
pub(crate) struct Response {
    pub(crate) outcome: Outcome,
    /// The requested locks.
    pub(crate) locks: Vec<(String, Queue)>,
    /// The time of this state on the server's clock.
    pub(crate) now: Now,
    pub(crate) as_of: StoreTime,
}

impl Response {
    /// Returns the holder of the requested lock.
    pub(crate) fn holder(&self) -> Option<Holder> {
        let (_, queue) = self.locks.first()?;
        queue.holder_view(&self.now)
    }

    /// Returns when a waiting attempt should ask again if it receives no notice.
    pub(crate) fn recheck(&self, attempt: tenure::id::AttemptId) -> Option<std::time::Duration> {
        let (_, queue) = self.locks.first()?;
        queue.recheck(attempt, &self.now)
    }
}

/// A client of a line server. A request opens a new connection if the last one has broken.
pub(crate) struct LineClient {
    address: String,
    session: Session,
    on_notice: Arc<dyn Fn(Option<ServerMessage>) + Send + Sync>,
    next: AtomicU64,
    connection: tokio::sync::Mutex<Option<Connection>>,
}

/// One connection. If it breaks, all its pending requests fail.
struct Connection {
    lines: mpsc::UnboundedSender<Vec<u8>>,
    pending: Pending,
    reader: AbortHandle,
}

/// The pending requests; `None` after the connection broke.
type Pending = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<ServerMessage>>>>>;

impl Connection {
    async fn open(
        address: &str,
        on_notice: Arc<dyn Fn(Option<ServerMessage>) + Send + Sync>,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (from, mut to) = stream.into_split();
        let (lines, mut queued) = mpsc::unbounded_channel::<Vec<u8>>();
        tokio::spawn(async move {
            while let Some(line) = queued.recv().await {
                to.write_all(&line).await?;
            }
            io::Result::Ok(())
        });
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let reader =
            tokio::spawn(read_messages(from, Arc::clone(&pending), on_notice)).abort_handle();
        Ok(Self {
            lines,
            pending,
            reader,
        })
    }

    /// Sends a request; returns `None` if the connection has broken.
    fn send(&self, id: u64, line: Vec<u8>) -> Option<oneshot::Receiver<ServerMessage>> {
        let (sender, response) = oneshot::channel();
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.as_mut()?.insert(id, sender);
        self.lines.send(line).ok()?;
        Some(response)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl LineClient {
    /// Connects. `on_notice` receives the notices of the server, and `None` when a connection ends.
    pub(crate) async fn connect(
        address: &str,
        session: Session,
        on_notice: impl Fn(Option<ServerMessage>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let on_notice: Arc<dyn Fn(Option<ServerMessage>) + Send + Sync> = Arc::new(on_notice);
        let connection = Connection::open(address, Arc::clone(&on_notice)).await?;
        Ok(Self {
            address: address.to_owned(),
            session,
            on_notice,
            next: AtomicU64::new(0),
            connection: tokio::sync::Mutex::new(Some(connection)),
        })
    }

    /// Sends a request once, over the present connection or over a new one if that has broken.
    async fn send(&self, id: u64, line: Vec<u8>) -> io::Result<oneshot::Receiver<ServerMessage>> {
        let mut connection = self.connection.lock().await;
        let sent = connection
            .as_ref()
            .and_then(|open| open.send(id, line.clone()));
        if let Some(response) = sent {
            return Ok(response);
        }
        *connection = None;
        let fresh = Connection::open(&self.address, Arc::clone(&self.on_notice)).await?;
        let sent = fresh.send(id, line);
        *connection = Some(fresh);
        sent.ok_or_else(|| io::ErrorKind::ConnectionReset.into())
    }

    /// Sends a request with a new number and waits for the response.
    pub(crate) async fn call(
        &self,
        name: &str,
        operation: Operation,
    ) -> Result<Response, CallError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let request = ClientRequest {
            id,
            session: self.session.clone(),
            name: name.to_owned(),
            operation,
        };
        let mut line = serde_json::to_vec(&request).map_err(|_| CallError::NotSent)?;
        line.push(b'\n');
        let response = self.send(id, line).await.map_err(|_| CallError::NotSent)?;
        match response.await {
            Ok(ServerMessage::Response {
                outcome: Outcome::Refused,
                ..
            }) => Err(CallError::Refused),
            Ok(ServerMessage::Response {
                outcome,
                locks,
                now,
                as_of,
                ..
            }) => Ok(Response {
                outcome,
                locks,
                now: Now::new(Stamp::new(ClockId::new(0), now), 0, 0),
                as_of: StoreTime::new(as_of),
            }),
            _ => Err(CallError::NoResponse),
        }
    }
}

// Omits the password.
impl fmt::Debug for LineClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineClient")
            .field("client", &self.session.client)
            .finish_non_exhaustive()
    }
}

async fn read_messages(
    from: OwnedReadHalf,
    pending: Pending,
    on_notice: Arc<dyn Fn(Option<ServerMessage>) + Send + Sync>,
) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(message @ ServerMessage::Response { .. }) => {
                let ServerMessage::Response { id, .. } = &message else {
                    continue;
                };
                let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(sender) = pending.as_mut().and_then(|all| all.remove(id)) {
                    let _ = sender.send(message);
                }
            }
            Ok(message) => on_notice(Some(message)),
            Err(_) => break,
        }
    }
    // All pending requests fail.
    *pending.lock().unwrap_or_else(PoisonError::into_inner) = None;
    on_notice(None);
}
