//! One connection: requests are written in the order in which they were handed over, and answered
//! in that order. It is never repaired, so that its identity is that of the object.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Notify, oneshot, watch},
};

use super::{
    jute::Malformed,
    proto::{AUTH, Code, Event, NOTIFICATION, Request},
};

/// The largest message that is read. A list of 500,000 waiters is shorter.
const LARGEST: usize = 64 << 20;

/// Why a request came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection was gone before: nothing was sent.
    Unsent,
    /// It was handed over, and no answer came.
    Unanswered,
    /// The server refused it, and changed nothing.
    Refused(Code),
    /// The answer cannot be read.
    Malformed,
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Takes what a server sends of itself. Called on the connection's task: never blocks.
pub(crate) trait Listener: Send + Sync + 'static {
    fn event(&self, event: Event);
}

/// A server's answer.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The last transaction that this server had carried out.
    pub(crate) zxid: i64,
    pub(crate) body: Vec<u8>,
}

/// Transaction, error and body of an answer.
type Raw = (i64, i32, Vec<u8>);

/// An answer that is on its way. Dropping it takes nothing back.
#[derive(Debug)]
pub(crate) struct Answer(oneshot::Receiver<Raw>);

impl Answer {
    /// The answer, or that none comes any more.
    pub(crate) async fn get(self) -> Result<Reply, Fault> {
        match self.0.await {
            Ok((zxid, 0, body)) => Ok(Reply { zxid, body }),
            Ok((_, code, _)) => Err(Fault::Refused(Code::of(code))),
            Err(_) => Err(Fault::Unanswered),
        }
    }
}

pub(crate) type Incoming = Box<dyn AsyncRead + Send + Unpin>;
pub(crate) type Outgoing = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection after its greeting.
#[derive(Debug)]
pub(crate) struct Conn(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    written: Notify,
    over: watch::Sender<bool>,
    zxid: AtomicI64,
    answers: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    last_xid: i32,
    out: Vec<u8>,
    pending: VecDeque<(i32, oneshot::Sender<Raw>)>,
    over: bool,
}

impl Conn {
    /// Begins to serve. Ends when the peer does, or with [`close`](Self::close) or the last handle.
    pub(crate) fn start(
        incoming: Incoming,
        outgoing: Outgoing,
        seen: i64,
        listener: Arc<dyn Listener>,
    ) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            written: Notify::new(),
            over: watch::Sender::new(false),
            zxid: AtomicI64::new(seen),
            answers: AtomicU64::new(0),
        });
        tokio::spawn(write(Arc::clone(&shared), outgoing));
        tokio::spawn(read(Arc::clone(&shared), incoming, listener));
        Self(shared)
    }

    /// Hands requests over, to be written together.
    pub(crate) fn send_all(
        &self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Result<Vec<Answer>, Fault> {
        let mut state = self.0.lock();
        if state.over {
            return Err(Fault::Unsent);
        }
        let answers = requests
            .into_iter()
            .map(|request| state.push(&request))
            .collect();
        drop(state);
        self.0.written.notify_one();
        Ok(answers)
    }

    /// Hands one request over.
    pub(crate) fn send(&self, request: &Request) -> Result<Answer, Fault> {
        let mut state = self.0.lock();
        if state.over {
            return Err(Fault::Unsent);
        }
        let answer = state.push(request);
        drop(state);
        self.0.written.notify_one();
        Ok(answer)
    }

    /// One request and its answer.
    pub(crate) async fn call(&self, request: Request) -> Result<Reply, Fault> {
        self.send(&request)?.get().await
    }

    /// The latest transaction that was seen on it.
    pub(crate) fn zxid(&self) -> i64 {
        self.0.zxid.load(Ordering::Relaxed)
    }

    /// How many answers have come on it.
    pub(crate) fn answers(&self) -> u64 {
        self.0.answers.load(Ordering::Relaxed)
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.0.over.borrow()
    }

    /// Returns once it is over.
    pub(crate) async fn over(&self) {
        let _ = self.0.over.subscribe().wait_for(|over| *over).await;
    }

    /// Ends it; requests that were not answered never are.
    pub(crate) fn close(&self) {
        self.0.end();
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl State {
    fn push(&mut self, request: &Request) -> Answer {
        let xid = if request.op == 100 {
            AUTH
        } else {
            // Positive, always: what is below zero has meanings of its own.
            self.last_xid = self.last_xid.checked_add(1).unwrap_or(1);
            self.last_xid
        };
        let (sender, receiver) = oneshot::channel();
        self.pending.push_back((xid, sender));
        let length = i32::try_from(request.body.len() + 8).unwrap_or(i32::MAX);
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(&xid.to_be_bytes());
        self.out.extend_from_slice(&request.op.to_be_bytes());
        self.out.extend_from_slice(&request.body);
        Answer(receiver)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        let mut state = self.lock();
        state.over = true;
        state.out = Vec::new();
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        self.over.send_replace(true);
        self.written.notify_one();
        drop(pending);
    }

    /// Takes one message; `None` if it is none that the protocol allows.
    fn take(&self, frame: &[u8], listener: &dyn Listener) -> Option<()> {
        let int = |at: usize| Some(i32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?));
        let xid = int(0)?;
        let zxid = i64::from_be_bytes(frame.get(4..12)?.try_into().ok()?);
        let code = int(12)?;
        let body = frame.get(16..)?;
        if xid == NOTIFICATION {
            listener.event(Event::read(body).ok()?);
            return Some(());
        }
        if zxid > 0 {
            self.zxid.fetch_max(zxid, Ordering::Relaxed);
        }
        self.answers.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        let at = state.pending.iter().position(|(sent, _)| *sent == xid)?;
        let (_, sender) = state.pending.remove(at)?;
        drop(state);
        // Nobody may be waiting any more.
        let _ = sender.send((zxid, code, body.to_vec()));
        Some(())
    }
}

async fn write(shared: Arc<Shared>, mut outgoing: Outgoing) {
    let mut over = shared.over.subscribe();
    loop {
        let out = {
            let mut state = shared.lock();
            if state.over {
                break;
            }
            std::mem::take(&mut state.out)
        };
        if out.is_empty() {
            shared.written.notified().await;
            continue;
        }
        let sent = async {
            outgoing.write_all(&out).await?;
            outgoing.flush().await
        };
        tokio::select! {
            sent = sent => if let Err(error) = sent {
                tracing::debug!(%error, "a connection broke while writing");
                break;
            },
            _ = over.wait_for(|over| *over) => break,
        }
    }
    shared.end();
}

async fn read(shared: Arc<Shared>, mut incoming: Incoming, listener: Arc<dyn Listener>) {
    let mut over = shared.over.subscribe();
    let mut buffer = Vec::with_capacity(4096);
    let mut at = 0;
    'serve: loop {
        while let Some(head) = buffer.get(at..at + 4) {
            let length = <[u8; 4]>::try_from(head).map_or(-1, i32::from_be_bytes);
            let Some(length) = usize::try_from(length).ok().filter(|&n| n <= LARGEST) else {
                tracing::warn!("a server sent a message of an impossible length");
                break 'serve;
            };
            let Some(frame) = buffer.get(at + 4..at + 4 + length) else {
                break;
            };
            if shared.take(frame, &*listener).is_none() {
                tracing::warn!("a server sent what its protocol does not allow");
                break 'serve;
            }
            at += 4 + length;
        }
        buffer.drain(..at);
        at = 0;
        let got = tokio::select! {
            got = incoming.read_buf(&mut buffer) => got,
            _ = over.wait_for(|over| *over) => break,
        };
        match got {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "a connection broke while reading");
                break;
            }
        }
    }
    shared.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Listener for Nobody {
        fn event(&self, _: Event) {}
    }

    fn connected() -> (Conn, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (incoming, outgoing) = tokio::io::split(ours);
        let conn = Conn::start(Box::new(incoming), Box::new(outgoing), 0, Arc::new(Nobody));
        (conn, theirs)
    }

    fn frame(xid: i32, zxid: i64, code: i32, body: &[u8]) -> Vec<u8> {
        let mut out = i32::try_from(16 + body.len())
            .unwrap()
            .to_be_bytes()
            .to_vec();
        out.extend(xid.to_be_bytes());
        out.extend(zxid.to_be_bytes());
        out.extend(code.to_be_bytes());
        out.extend(body);
        out
    }

    #[tokio::test]
    async fn requests_are_written_together_and_answered_each_for_itself() {
        let (conn, mut server) = connected();
        let answers = conn
            .send_all([Request::sync("/"), Request::exists("/", false)])
            .unwrap();
        let mut seen = vec![0; 4 + 8 + 5 + 4 + 8 + 6];
        server.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen[7], 1);
        server.write_all(&frame(1, 9, 0, b"a")).await.unwrap();
        server.write_all(&frame(2, 9, -101, b"")).await.unwrap();
        let mut answers = answers.into_iter();
        assert_eq!(answers.next().unwrap().get().await.unwrap().body, b"a");
        let second = answers.next().unwrap().get().await;
        assert_eq!(second.unwrap_err(), Fault::Refused(Code::NoNode));
        assert_eq!(conn.zxid(), 9);
    }

    #[tokio::test]
    async fn a3_the_end_of_a_connection_leaves_what_was_sent_unanswered_and_takes_nothing_more() {
        let (conn, server) = connected();
        let answer = conn.send(&Request::sync("/")).unwrap();
        drop(server);
        assert_eq!(answer.get().await.unwrap_err(), Fault::Unanswered);
        conn.over().await;
        let refused = conn.send(&Request::sync("/")).unwrap_err();
        assert_eq!(refused, Fault::Unsent);
    }

    #[tokio::test]
    async fn s2_messages_that_the_protocol_does_not_allow_end_the_connection() {
        for wrong in [
            frame(77, 0, 0, b""),
            frame(NOTIFICATION, 0, 0, b"x"),
            b"\xff\xff\xff\xff".to_vec(),
            b"\x7f\xff\xff\xff".to_vec(),
            b"\0\0\0\x03abc".to_vec(),
        ] {
            let (conn, mut server) = connected();
            server.write_all(&wrong).await.unwrap();
            conn.over().await;
        }
    }
}
