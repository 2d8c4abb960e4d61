//! One connection of the proxy: two relays between its sockets, and the faults on their way.

use std::{
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
    sync::watch,
};

use super::{
    protocol::{Answers, Parser, Protocol},
    record::Record,
};

/// As much as is read at once.
const CHUNK_SIZE: usize = 64 * 1024;

/// What is held back at the moment, on all connections.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeldTraffic {
    pub(super) requests: bool,
    pub(super) replies: bool,
    /// How long everything waits that may pass.
    pub(super) delay_of_requests: Duration,
    pub(super) delay_of_replies: Duration,
}

/// What both relays of a connection know.
pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) protocol: Protocol,
    pub(super) record: Arc<Record>,
    pub(super) held: watch::Receiver<HeldTraffic>,
}

/// How far the loss of a reply has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    None,
    /// Nothing of what the server sends is passed on any more, until this is answered.
    Begun(i64),
    /// The server has answered all that it was sent: the connection can be closed.
    Complete,
}

impl Connection {
    /// Runs until one side has closed the connection or a reply was lost; the caller then closes
    /// both sockets.
    pub(super) async fn run(self, mut client: TcpStream, mut server: TcpStream) {
        // What the proxy sends is sent at once, as it came.
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (loss, _) = watch::channel(Loss::None);
        let mark = mark();
        // The server's end of the connection ends it; the client's is passed on, and what the
        // server still has to say to it as well.
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
        mut client: ReadHalf<'_>,
        mut server: WriteHalf<'_>,
        loss: &watch::Sender<Loss>,
        mark: &str,
    ) -> io::Result<()> {
        let mut held = self.held.clone();
        let mut parser = Parser::of(self.protocol);
        let mut chunk = vec![0; CHUNK_SIZE];
        // What was read and not passed on yet; where in it the command ends whose reply is lost.
        let mut waiting = Vec::new();
        let mut last = None;
        let mut is_over = false;
        loop {
            let length = client.read(&mut chunk).await?;
            is_over |= length == 0;
            let (end, lose) = self.record_chunk(&mut parser, &chunk[..length]);
            if let Some(answer) = lose {
                loss.send_replace(Loss::Begun(answer));
                last = Some(waiting.len() + end);
            }
            waiting.extend_from_slice(&chunk[..length]);
            delay(&held, |held| held.delay_of_requests).await;
            if last.is_none() && !is_over && held.borrow().requests {
                // A command may come in pieces, and is known only when the last has come.
                tokio::select! {
                    biased;
                    outcome = released(&mut held, |held| held.requests) => outcome?,
                    readable = client.readable() => {
                        readable?;
                        continue;
                    }
                }
            }
            released(&mut held, |held| held.requests).await?;
            let Some(last) = last else {
                server.write_all(&waiting).await?;
                waiting.clear();
                if is_over {
                    return server.shutdown().await;
                }
                continue;
            };
            server.write_all(&waiting[..last]).await?;
            if self.protocol == Protocol::Redis {
                // After the command goes another that no server knows: its answer repeats the
                // mark, and shows that everything before it was carried out.
                let marker = format!("*1\r\n${}\r\n{mark}\r\n", mark.len());
                server.write_all(marker.as_bytes()).await?;
            }
            let _ = loss
                .subscribe()
                .wait_for(|loss| *loss == Loss::Complete)
                .await;
            self.record.reply_lost();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }

    /// Records what a chunk brings; where its last complete command ends, and whether the reply of
    /// one of its commands is to be lost.
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
        mut server: ReadHalf<'_>,
        mut client: WriteHalf<'_>,
        loss: &watch::Sender<Loss>,
        mark: &[u8],
    ) -> io::Result<()> {
        let mut held = self.held.clone();
        let mut losing = loss.subscribe();
        let mut answers = Answers::of(self.protocol, mark);
        let mut chunk = vec![0; CHUNK_SIZE];
        loop {
            let length = server.read(&mut chunk).await?;
            if length == 0 {
                return Ok(());
            }
            let chunk = &chunk[..length];
            let pass = async {
                delay(&held.clone(), |held| held.delay_of_replies).await;
                released(&mut held, |held| held.replies).await
            };
            let awaited = tokio::select! {
                biased;
                awaited = begun(&mut losing) => awaited,
                outcome = pass => {
                    outcome?;
                    client.write_all(chunk).await?;
                    answers.feed(chunk, None);
                    continue;
                }
            };
            if answers.feed(chunk, Some(awaited)) {
                loss.send_replace(Loss::Complete);
                return std::future::pending().await;
            }
        }
    }
}

/// Returns when the loss of a reply has begun on this connection, with what is to be answered.
async fn begun(loss: &mut watch::Receiver<Loss>) -> i64 {
    let begun = loss.wait_for(|loss| matches!(loss, Loss::Begun(_))).await;
    let answer = begun.ok().and_then(|loss| match *loss {
        Loss::Begun(answer) => Some(answer),
        _ => None,
    });
    match answer {
        Some(answer) => answer,
        // Nobody is left who could begin one.
        None => std::future::pending().await,
    }
}

/// Waits for as long as everything is delayed in this direction.
async fn delay(held: &watch::Receiver<HeldTraffic>, direction: impl Fn(&HeldTraffic) -> Duration) {
    let delay = direction(&held.borrow());
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

/// Returns when this direction is not held back.
async fn released(
    held: &mut watch::Receiver<HeldTraffic>,
    direction: impl Fn(&HeldTraffic) -> bool,
) -> io::Result<()> {
    let waited = held.wait_for(|held| !direction(held)).await;
    waited
        .map(|_| ())
        .map_err(|_| io::ErrorKind::ConnectionAborted.into())
}

/// A word that nobody else sends.
fn mark() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("MARK-{:016x}{:016x}", random(), random())
}
