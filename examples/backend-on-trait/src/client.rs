//! The client library of the line server. It is no part of the backend, and knows nothing of it.

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

use crate::wire::{Ask, Asker, Done, Say, Verb};

/// Why a request has no answer.
pub(crate) enum Failed {
    /// The connection was gone before it was sent.
    NotSent,
    /// The connection broke before the answer came.
    NoAnswer,
    /// The password is wrong.
    Refused,
}

/// An answer.
pub(crate) struct Told {
    pub(crate) done: Done,
    /// The locks that were asked for.
    pub(crate) locks: Vec<(String, Queue)>,
    /// When that was so, by the server's clock.
    pub(crate) now: Now,
    pub(crate) as_of: StoreTime,
}

impl Told {
    /// Who has the lock that was asked for.
    pub(crate) fn holder(&self) -> Option<Holder> {
        let (_, queue) = self.locks.first()?;
        queue.holder_view(&self.now)
    }

    /// When an attempt that waits for it should ask again, should no word come before.
    pub(crate) fn recheck(&self, attempt: tenure::id::AttemptId) -> Option<std::time::Duration> {
        let (_, queue) = self.locks.first()?;
        queue.recheck(attempt, &self.now)
    }
}

/// A client of a line server. It connects anew when it is asked and has no connection.
pub(crate) struct LineClient {
    address: String,
    asker: Asker,
    unasked: Arc<dyn Fn(Option<Say>) + Send + Sync>,
    next: AtomicU64,
    connection: tokio::sync::Mutex<Option<Connection>>,
}

/// One connection. Whoever asks over it hears when it breaks.
struct Connection {
    lines: mpsc::UnboundedSender<Vec<u8>>,
    pending: Pending,
    listener: AbortHandle,
}

/// The answers that are waited for; `None` once the connection has broken.
type Pending = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Say>>>>>;

impl Connection {
    async fn open(
        address: &str,
        unasked: Arc<dyn Fn(Option<Say>) + Send + Sync>,
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
        let listener = tokio::spawn(listen(from, Arc::clone(&pending), unasked)).abort_handle();
        Ok(Self {
            lines,
            pending,
            listener,
        })
    }

    /// `None` if the connection has broken.
    fn send(&self, id: u64, line: Vec<u8>) -> Option<oneshot::Receiver<Say>> {
        let (asked, answer) = oneshot::channel();
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.as_mut()?.insert(id, asked);
        self.lines.send(line).ok()?;
        Some(answer)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl LineClient {
    /// Connects. What the server says unasked goes to `unasked`; `None` when a connection ends.
    pub(crate) async fn connect(
        address: &str,
        asker: Asker,
        unasked: impl Fn(Option<Say>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let unasked: Arc<dyn Fn(Option<Say>) + Send + Sync> = Arc::new(unasked);
        let connection = Connection::open(address, Arc::clone(&unasked)).await?;
        Ok(Self {
            address: address.to_owned(),
            asker,
            unasked,
            next: AtomicU64::new(0),
            connection: tokio::sync::Mutex::new(Some(connection)),
        })
    }

    /// Sends once: over the connection that there is, or over a new one if that has broken.
    async fn send(&self, id: u64, line: Vec<u8>) -> io::Result<oneshot::Receiver<Say>> {
        let mut connection = self.connection.lock().await;
        let sent = connection
            .as_ref()
            .and_then(|open| open.send(id, line.clone()));
        if let Some(answer) = sent {
            return Ok(answer);
        }
        *connection = None;
        let fresh = Connection::open(&self.address, Arc::clone(&self.unasked)).await?;
        let sent = fresh.send(id, line);
        *connection = Some(fresh);
        sent.ok_or_else(|| io::ErrorKind::ConnectionReset.into())
    }

    /// Asks, under a number of its own, and waits for the answer.
    pub(crate) async fn ask(&self, name: &str, verb: Verb) -> Result<Told, Failed> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let ask = Ask {
            id,
            asker: self.asker.clone(),
            name: name.to_owned(),
            verb,
        };
        let mut line = serde_json::to_vec(&ask).map_err(|_| Failed::NotSent)?;
        line.push(b'\n');
        let answer = self.send(id, line).await.map_err(|_| Failed::NotSent)?;
        match answer.await {
            Ok(Say::Answer {
                done: Done::Refused,
                ..
            }) => Err(Failed::Refused),
            Ok(Say::Answer {
                done,
                locks,
                now,
                as_of,
                ..
            }) => Ok(Told {
                done,
                locks,
                now: Now::new(Stamp::new(ClockId::new(0), now), 0, 0),
                as_of: StoreTime::new(as_of),
            }),
            _ => Err(Failed::NoAnswer),
        }
    }
}

// Without the password.
impl fmt::Debug for LineClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineClient")
            .field("client", &self.asker.client)
            .finish_non_exhaustive()
    }
}

async fn listen(
    from: OwnedReadHalf,
    pending: Pending,
    unasked: Arc<dyn Fn(Option<Say>) + Send + Sync>,
) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(say @ Say::Answer { .. }) => {
                let Say::Answer { id, .. } = &say else {
                    continue;
                };
                let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(asked) = pending.as_mut().and_then(|all| all.remove(id)) {
                    let _ = asked.send(say);
                }
            }
            Ok(say) => unasked(Some(say)),
            Err(_) => break,
        }
    }
    // Whoever waits for an answer hears that it will not come.
    *pending.lock().unwrap_or_else(PoisonError::into_inner) = None;
    unasked(None);
}
