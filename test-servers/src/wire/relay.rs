//! One connection of the proxy: a relay for each direction, with faults.

use std::{
    convert::Infallible,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{
        mpsc::{UnboundedSender, unbounded_channel},
        watch,
    },
    time::{Instant, sleep_until},
};

use super::{
    protocol::{Answers, Parser, Protocol},
    record::Record,
};

/// The maximum size of one read.
const CHUNK_SIZE: usize = 64 * 1024;

/// The current holds and delays of all connections.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeldTraffic {
    pub(super) requests: bool,
    pub(super) replies: bool,
    /// The time between the arrival of a chunk and its departure.
    pub(super) delay_of_requests: Duration,
    pub(super) delay_of_replies: Duration,
    /// The time after each chunk before the next one departs.
    pub(super) pace_of_replies: Duration,
}

/// The context of both relays of a connection.
pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) protocol: Protocol,
    pub(super) record: Arc<Record>,
    pub(super) held: watch::Receiver<HeldTraffic>,
}

/// The progress of the loss of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    None,
    /// The server's data is dropped until the reply with this number.
    Begun(i64),
    /// The server has replied to all commands: the connection can be closed.
    Complete,
}

impl Connection {
    /// Relays data until one side closes the connection or a reply is lost. Then the caller closes both
    /// sockets.
    pub(super) async fn run(self, mut client: TcpStream, mut server: TcpStream) {
        // The proxy sends each chunk at once.
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (loss, _) = watch::channel(Loss::None);
        let mark = mark();
        // When the server closes its side, the connection ends. When the client closes its side, the close
        // is passed on, and the server can still send data.
        tokio::select! {
            _ = self.replies(from_server, to_client, &loss, mark.as_bytes()) => {}
            () = async {
                if let Ok(()) = self.requests(from_client, to_server, &loss, &mark).await {
                    std::future::pending().await
                }
            } => {}
        }
    }

    async fn requests(
        &self,
        client: ReadHalf<'_>,
        mut server: WriteHalf<'_>,
        loss: &watch::Sender<Loss>,
        mark: &str,
    ) -> io::Result<()> {
        let mut held = self.held.clone();
        let (queue, mut chunks) = unbounded_channel();
        let mut parser = Parser::of(self.protocol);
        let begin_loss = |bytes: &[u8]| {
            let (end, answer) = self.record_chunk(&mut parser, bytes);
            loss.send_replace(Loss::Begun(answer?));
            Some(end)
        };
        let delay = |held: &HeldTraffic| held.delay_of_requests;
        let reading = read_chunks(client, &self.held, delay, begin_loss, queue);
        let writing = async {
            while let Some(chunk) = chunks.recv().await {
                sleep_until(chunk.due).await;
                released(&mut held, |held| held.requests).await?;
                let Some(last) = chunk.loses_reply_at else {
                    server.write_all(&chunk.bytes).await?;
                    continue;
                };
                server.write_all(&chunk.bytes[..last]).await?;
                if self.protocol == Protocol::Redis {
                    // After the command goes a command that no server knows. Its answer repeats the
                    // mark, and shows that the server executed everything before it.
                    let marker = format!("*1\r\n${}\r\n{mark}\r\n", mark.len());
                    server.write_all(marker.as_bytes()).await?;
                }
                let mut loss = loss.subscribe();
                let _ = loss.wait_for(|loss| *loss == Loss::Complete).await;
                self.record.reply_lost();
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            server.shutdown().await
        };
        tokio::select! {
            never = reading => match never {},
            outcome = writing => outcome,
        }
    }

    /// Records the commands of a chunk. Returns the end of the last complete command, and the number of the
    /// reply to wait for if a reply must be lost.
    fn record_chunk(&self, parser: &mut Parser, chunk: &[u8]) -> (usize, Option<i64>) {
        if parser.is_lost() {
            return (0, None);
        }
        let fed = parser.feed(chunk);
        if parser.is_lost() {
            self.record.unreadable();
        }
        if fed.began {
            self.record.request_began();
        }
        (fed.end, self.record.arrived(self.number, fed.commands))
    }

    async fn replies(
        &self,
        server: ReadHalf<'_>,
        mut client: WriteHalf<'_>,
        loss: &watch::Sender<Loss>,
        mark: &[u8],
    ) -> io::Result<()> {
        let mut held = self.held.clone();
        let mut losing = loss.subscribe();
        let mut answers = Answers::of(self.protocol, mark);
        let (queue, mut chunks) = unbounded_channel();
        let delay = |held: &HeldTraffic| held.delay_of_replies;
        let reading = read_chunks(server, &self.held, delay, |_| None, queue);
        let writing = async {
            while let Some(chunk) = chunks.recv().await {
                let pass = async {
                    sleep_until(chunk.due).await;
                    released(&mut held, |held| held.replies).await
                };
                let awaited = tokio::select! {
                    biased;
                    awaited = begun(&mut losing) => awaited,
                    outcome = pass => {
                        outcome?;
                        client.write_all(&chunk.bytes).await?;
                        answers.feed(&chunk.bytes, None);
                        let pace = self.held.borrow().pace_of_replies;
                        // A timer that is due at once still takes up to a millisecond.
                        if !pace.is_zero() {
                            sleep_until(Instant::now() + pace).await;
                        }
                        continue;
                    }
                };
                if answers.feed(&chunk.bytes, Some(awaited)) {
                    loss.send_replace(Loss::Complete);
                    return std::future::pending().await;
                }
            }
            Ok(())
        };
        tokio::select! {
            never = reading => match never {},
            outcome = writing => outcome,
        }
    }
}

/// A chunk on its way through the proxy.
struct Chunk {
    bytes: Vec<u8>,
    /// When it may be passed on.
    due: Instant,
    /// The end of the command whose reply is lost.
    loses_reply_at: Option<usize>,
}

/// Queues what arrives, each chunk with its due time, so that delays run concurrently. Never returns;
/// the queue ends when the sender closes or breaks the connection.
async fn read_chunks(
    mut from: ReadHalf<'_>,
    held: &watch::Receiver<HeldTraffic>,
    delay: impl Fn(&HeldTraffic) -> Duration,
    mut inspect: impl FnMut(&[u8]) -> Option<usize>,
    queue: UnboundedSender<Chunk>,
) -> Infallible {
    let mut buffer = vec![0; CHUNK_SIZE];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let bytes = buffer[..length].to_vec();
        let loses_reply_at = inspect(&bytes);
        let due = Instant::now() + delay(&held.borrow());
        let chunk = Chunk {
            bytes,
            due,
            loses_reply_at,
        };
        // Nothing after the command whose reply is lost is passed on.
        if queue.send(chunk).is_err() || loses_reply_at.is_some() {
            break;
        }
    }
    drop(queue);
    std::future::pending().await
}

/// Waits until the loss of a reply begins on this connection; returns the number of the reply.
async fn begun(loss: &mut watch::Receiver<Loss>) -> i64 {
    let begun = loss.wait_for(|loss| matches!(loss, Loss::Begun(_))).await;
    let answer = begun.ok().and_then(|loss| match *loss {
        Loss::Begun(answer) => Some(answer),
        _ => None,
    });
    match answer {
        Some(answer) => answer,
        // No loss can begin any more.
        None => std::future::pending().await,
    }
}

/// Waits until this direction is not held.
async fn released(
    held: &mut watch::Receiver<HeldTraffic>,
    direction: impl Fn(&HeldTraffic) -> bool,
) -> io::Result<()> {
    let waited = held.wait_for(|held| !direction(held)).await;
    waited
        .map(|_| ())
        .map_err(|_| io::ErrorKind::ConnectionAborted.into())
}

/// Returns a random word.
fn mark() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("MARK-{:016x}{:016x}", random(), random())
}
