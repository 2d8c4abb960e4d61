//! One connection: requests are written in the order in which they were handed over, and answered
//! in that order. It is never repaired, so that its identity is that of the object.
//!
//! There is one exception, for the sake of those who wait. A server writes to its disk for each change
//! that finds it idle, and what comes meanwhile has to wait for that. So a release goes before requests
//! that are in no hurry, and those go along with it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Notify, oneshot, watch},
    time::{Instant, timeout_at},
};

use super::{
    jute::Malformed,
    proto::{AUTH, Code, Event, NOTIFICATION, Request},
};

/// The largest message that is read. A list of 500,000 waiters is shorter.
const LARGEST: usize = 64 << 20;

/// So long a request that is in no hurry waits for another one to go along with.
const PATIENCE: Duration = Duration::from_millis(1);

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
    /// What is in no hurry, and comes after that.
    later: Vec<u8>,
    pending: VecDeque<Pending>,
    over: bool,
}

/// A request that was handed over and not answered.
#[derive(Debug)]
struct Pending {
    xid: i32,
    answer: oneshot::Sender<Raw>,
    /// The node that it deletes, if the listener is to be told.
    deletes: Option<Box<str>>,
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

    /// Hands something over to be written.
    fn hand_over<T>(&self, push: impl FnOnce(&mut State) -> T) -> Result<T, Fault> {
        let mut state = self.0.lock();
        if state.over {
            return Err(Fault::Unsent);
        }
        let pushed = push(&mut state);
        drop(state);
        self.0.written.notify_one();
        Ok(pushed)
    }

    /// Hands requests over, to be written together.
    pub(crate) fn send_all(
        &self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Result<Vec<Answer>, Fault> {
        self.hand_over(|state| {
            state.catch_up();
            let requests = requests.into_iter();
            requests.map(|request| state.push(&request)).collect()
        })
    }

    /// The same for requests that are in no hurry: they are written behind what is handed over next,
    /// or after a millisecond.
    pub(crate) fn send_patiently(
        &self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Result<Vec<Answer>, Fault> {
        self.hand_over(|state| {
            let requests = requests.into_iter();
            requests.map(|request| state.push_later(&request)).collect()
        })
    }

    /// Hands one request over.
    pub(crate) fn send(&self, request: &Request) -> Result<Answer, Fault> {
        self.hand_over(|state| {
            state.catch_up();
            state.push(request)
        })
    }

    /// One request and its answer.
    pub(crate) async fn call(&self, request: Request) -> Result<Reply, Fault> {
        self.send(&request)?.get().await
    }

    /// Deletes a node of which it is known that it was made. Goes before what is in no hurry. Once the
    /// node is gone the listener is told so, before the answer, whether or not it is watched.
    pub(crate) async fn delete(&self, path: &str) -> Result<Reply, Fault> {
        let request = Request::delete(path);
        let answer = self.hand_over(|state| {
            let answer = state.push(&request);
            if let Some(pending) = state.pending.back_mut() {
                pending.deletes = Some(path.into());
            }
            state.catch_up();
            answer
        })?;
        answer.get().await
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
        let (xid, answer) = self.number(request);
        write_to(&mut self.out, xid, request);
        answer
    }

    fn push_later(&mut self, request: &Request) -> Answer {
        let (xid, answer) = self.number(request);
        write_to(&mut self.later, xid, request);
        answer
    }

    /// What is in no hurry is next.
    fn catch_up(&mut self) {
        self.out.append(&mut self.later);
    }

    fn number(&mut self, request: &Request) -> (i32, Answer) {
        let xid = if request.op == 100 {
            AUTH
        } else {
            // Positive, always: what is below zero has meanings of its own.
            self.last_xid = self.last_xid.checked_add(1).unwrap_or(1);
            self.last_xid
        };
        let (answer, receiver) = oneshot::channel();
        self.pending.push_back(Pending {
            xid,
            answer,
            deletes: None,
        });
        (xid, Answer(receiver))
    }
}

fn write_to(out: &mut Vec<u8>, xid: i32, request: &Request) {
    let length = i32::try_from(request.body.len() + 8).unwrap_or(i32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&xid.to_be_bytes());
    out.extend_from_slice(&request.op.to_be_bytes());
    out.extend_from_slice(&request.body);
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        let mut state = self.lock();
        state.over = true;
        state.out = Vec::new();
        state.later = Vec::new();
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
        let at = state.pending.iter().position(|sent| sent.xid == xid)?;
        let pending = state.pending.remove(at)?;
        drop(state);
        if let Some(path) = pending.deletes
            && (code == 0 || Code::of(code) == Code::NoNode)
        {
            let path = path.into_string();
            listener.event(Event {
                path,
                deleted: true,
            });
        }
        // Nobody may be waiting any more.
        let _ = pending.answer.send((zxid, code, body.to_vec()));
        Some(())
    }
}

async fn write(shared: Arc<Shared>, mut outgoing: Outgoing) {
    let mut over = shared.over.subscribe();
    // Until when what is in no hurry waits.
    let mut patience: Option<Instant> = None;
    loop {
        let (out, later) = {
            let mut state = shared.lock();
            if state.over {
                break;
            }
            (std::mem::take(&mut state.out), !state.later.is_empty())
        };
        if out.is_empty() {
            let written = shared.written.notified();
            if !later {
                written.await;
                continue;
            }
            let until = *patience.get_or_insert_with(|| Instant::now() + PATIENCE);
            if timeout_at(until, written).await.is_err() {
                shared.lock().catch_up();
            }
            continue;
        }
        patience = None;
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

    /// The operation and the xid of the next request that a server reads.
    async fn read(server: &mut tokio::io::DuplexStream) -> (i32, i32) {
        let mut body = vec![0; usize::try_from(server.read_i32().await.unwrap()).unwrap()];
        server.read_exact(&mut body).await.unwrap();
        let int = |at: usize| i32::from_be_bytes(body[at..at + 4].try_into().unwrap());
        (int(4), int(0))
    }

    const CREATE: i32 = 15;
    const DELETE: i32 = 2;
    const EXISTS: i32 = 3;
    const SYNC: i32 = 9;

    fn created() -> [Request; 1] {
        let kind = super::super::proto::Kind::EphemeralSequential;
        [Request::create(
            "/a",
            b"",
            super::super::proto::Access::Open,
            kind,
        )]
    }

    #[tokio::test(start_paused = true)]
    async fn w2_what_is_in_no_hurry_goes_behind_a_release_and_along_with_it() {
        let (conn, mut server) = connected();
        let _created = conn.send_patiently(created()).unwrap();
        let begun = Instant::now();
        let deleted = tokio::spawn(async move { conn.delete("/b").await });
        assert_eq!(read(&mut server).await, (DELETE, 2));
        assert_eq!(read(&mut server).await, (CREATE, 1));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        deleted.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_no_hurry_goes_alone_after_a_while_however_often_it_is_joined() {
        let (conn, mut server) = connected();
        let begun = Instant::now();
        for _ in 0..2 {
            let _created = conn.send_patiently(created()).unwrap();
            // The writer has its turn first.
            tokio::task::yield_now().await;
            tokio::time::advance(PATIENCE * 6 / 10).await;
        }
        for xid in 1..3 {
            assert_eq!(read(&mut server).await, (CREATE, xid));
        }
        assert!(
            begun.elapsed() < PATIENCE * 15 / 10,
            "{:?}",
            begun.elapsed()
        );
    }

    /// Whoever asks whether something came into being asks after it.
    #[tokio::test]
    async fn a4_nothing_but_a_release_goes_before_what_was_handed_over() {
        let (conn, mut server) = connected();
        let _created = conn.send_patiently(created()).unwrap();
        let _synced = conn
            .send_all([Request::sync("/"), Request::exists("/", false)])
            .unwrap();
        let _created = conn.send_patiently(created()).unwrap();
        let _seen = conn.send(&Request::exists("/", false)).unwrap();
        for (xid, op) in (1..).zip([CREATE, SYNC, EXISTS, CREATE, EXISTS]) {
            assert_eq!(read(&mut server).await, (op, xid));
        }
    }

    #[derive(Default)]
    struct Heard(Mutex<Vec<Event>>);

    impl Listener for Heard {
        fn event(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }
    }

    #[tokio::test]
    async fn w2_a_deletion_is_told_before_its_answer_and_only_if_the_node_is_gone() {
        const NO_NODE: i32 = -101;
        const NO_AUTH: i32 = -102;
        let (ours, mut server) = tokio::io::duplex(1 << 16);
        let (incoming, outgoing) = tokio::io::split(ours);
        let heard = Arc::new(Heard::default());
        let ear = Arc::clone(&heard) as Arc<dyn Listener>;
        let conn = Conn::start(Box::new(incoming), Box::new(outgoing), 0, ear);
        for (xid, (code, told)) in (1..).zip([(0, true), (NO_NODE, true), (NO_AUTH, false)]) {
            server.write_all(&frame(xid, 9, code, b"")).await.unwrap();
            let answer = conn.delete("/a").await;
            assert_eq!(answer.is_ok(), code == 0);
            let heard = std::mem::take(&mut *heard.0.lock().unwrap());
            let event = Event {
                path: "/a".to_owned(),
                deleted: true,
            };
            assert_eq!(heard, if told { vec![event] } else { vec![] });
        }
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
