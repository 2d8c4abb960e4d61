//! One connection of the proxy: two pumps between its sockets, and the faults on their way.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io,
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
};

use super::{parser::Parser, record::Record};

/// As much as is read at once.
const PIECE: usize = 64 * 1024;

/// What is held back at the moment, on all connections.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) requests: bool,
    pub(super) replies: bool,
}

/// What both pumps of a connection know.
pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) record: Arc<Record>,
    pub(super) held: watch::Receiver<Held>,
}

/// How far the loss of a reply has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    None,
    /// Nothing of what the server sends is passed on any more.
    Begun,
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
        let mut parser = Parser::default();
        let mut piece = vec![0; PIECE];
        loop {
            let length = client.read(&mut piece).await?;
            if length == 0 {
                return server.shutdown().await;
            }
            let (end, lose) = self.look_at(&mut parser, &piece[..length]);
            if lose {
                loss.send_replace(Loss::Begun);
            }
            released(&mut held, |held| held.requests).await?;
            if !lose {
                server.write_all(&piece[..length]).await?;
                continue;
            }
            // After the command goes another that no server knows: its answer repeats the mark,
            // and shows that everything before it was carried out.
            server.write_all(&piece[..end]).await?;
            let marker = format!("*1\r\n${}\r\n{mark}\r\n", mark.len());
            server.write_all(marker.as_bytes()).await?;
            let _ = loss
                .subscribe()
                .wait_for(|loss| *loss == Loss::Complete)
                .await;
            self.record.reply_lost();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }

    /// Records what a piece brings; where its last complete command ends, and whether the reply of
    /// one of its commands is to be lost.
    fn look_at(&self, parser: &mut Parser, piece: &[u8]) -> (usize, bool) {
        if parser.is_lost() {
            return (0, false);
        }
        let was_within = parser.is_within_command();
        let mut commands = Vec::new();
        let end = parser.feed(piece, |command| commands.push(command));
        if parser.is_lost() {
            self.record.unreadable();
        }
        let begun = commands.len() + usize::from(parser.is_within_command());
        if begun > usize::from(was_within) {
            self.record.request_began();
        }
        (end, self.record.arrived(self.number, commands))
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
        let mut end = Mark::new(mark);
        let mut piece = vec![0; PIECE];
        loop {
            let length = server.read(&mut piece).await?;
            if length == 0 {
                return Ok(());
            }
            let piece = &piece[..length];
            tokio::select! {
                biased;
                () = begun(&mut losing) => {}
                outcome = released(&mut held, |held| held.replies) => {
                    outcome?;
                    client.write_all(piece).await?;
                    continue;
                }
            }
            if end.is_found_with(piece) {
                loss.send_replace(Loss::Complete);
                return std::future::pending().await;
            }
        }
    }
}

/// Looks for a word in bytes that come in pieces.
struct Mark<'a> {
    word: &'a [u8],
    /// The end of what came before, in which the word may have begun.
    before: Vec<u8>,
}

impl<'a> Mark<'a> {
    fn new(word: &'a [u8]) -> Self {
        Self {
            word,
            before: Vec::new(),
        }
    }

    fn is_found_with(&mut self, piece: &[u8]) -> bool {
        self.before.extend_from_slice(piece);
        let length = self.word.len();
        let found = self
            .before
            .windows(length)
            .any(|window| window == self.word);
        let done = self.before.len().saturating_sub(length - 1);
        self.before.drain(..done);
        found
    }
}

/// Returns when the loss of a reply has begun on this connection.
async fn begun(loss: &mut watch::Receiver<Loss>) {
    if loss.wait_for(|loss| *loss != Loss::None).await.is_err() {
        // Nobody is left who could begin one.
        std::future::pending().await
    }
}

/// Returns when this direction is not held back.
async fn released(
    held: &mut watch::Receiver<Held>,
    direction: impl Fn(&Held) -> bool,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_however_it_is_cut() {
        let text = b"+OK\r\n-ERR unknown command 'MARK-17', with args\r\n";
        for cut in 0..text.len() {
            let mut mark = Mark::new(b"MARK-17");
            let (one, two) = text.split_at(cut);
            assert!(
                mark.is_found_with(one) ^ mark.is_found_with(two),
                "cut at {cut}"
            );
        }
        let mut mark = Mark::new(b"MARK-17");
        let found = text.chunks(1).filter(|byte| mark.is_found_with(byte));
        assert_eq!(found.count(), 1);
        assert!(!Mark::new(b"MARK-18").is_found_with(text));
    }
}
