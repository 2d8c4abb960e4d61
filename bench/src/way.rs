//! A way to a server on which every reply takes a while, however many are under way at once.
//!
//! The proxy of the tests lets each piece wait after the piece before it: an answer that a server sends
//! in two pieces would take twice as long.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    sync::mpsc::unbounded_channel,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::contender::Failure;

/// As much as is read at once.
const PIECE: usize = 64 * 1024;

/// It ends when this is dropped, and its connections when their clients or servers close them.
pub(crate) struct Way {
    pub(crate) address: String,
    accepts: JoinHandle<()>,
}

impl Way {
    /// A way to the server at this address, on a free port of 127.0.0.1.
    pub(crate) async fn start(server: &str, delay: Duration) -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?.to_string();
        let server = server.to_owned();
        let accepts = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = server.clone();
                // A connection that breaks is seen by those at its ends.
                tokio::spawn(async move { pass(client, &server, delay).await.ok() });
            }
        });
        Ok(Self { address, accepts })
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

/// Passes on what the client sends at once, and what the server sends after the delay.
async fn pass(client: TcpStream, server: &str, delay: Duration) -> Result<(), Failure> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (pieces, mut delayed) = unbounded_channel::<(Instant, Vec<u8>)>();
    let requests = async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let replies = async move {
        let mut piece = vec![0; PIECE];
        loop {
            let length = from_server.read(&mut piece).await?;
            let read = piece.get(..length).unwrap_or_default().to_vec();
            // The end of the replies ends what is still to be written.
            if length == 0 || pieces.send((Instant::now() + delay, read)).is_err() {
                return Ok(());
            }
        }
    };
    let writes = async {
        while let Some((due, piece)) = delayed.recv().await {
            sleep_until(due).await;
            to_client.write_all(&piece).await?;
        }
        to_client.shutdown().await
    };
    tokio::try_join!(requests, replies, writes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_are_delayed_side_by_side() {
        const DELAY: Duration = Duration::from_millis(100);
        // One after the other, so many would take twice what is allowed here.
        const PIECES: usize = 10;
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = server.local_addr().unwrap().to_string();
        let way = Way::start(&address, DELAY).await.unwrap();
        let mut client = TcpStream::connect(&way.address).await.unwrap();
        let (mut peer, _) = server.accept().await.unwrap();
        let begun = Instant::now();
        client.write_all(b"?").await.unwrap();
        assert_eq!(peer.read_u8().await.unwrap(), b'?');
        assert!(begun.elapsed() < DELAY, "a request was delayed");
        let mut answer = [0; PIECES];
        for _ in 0..PIECES {
            peer.write_all(b"!").await.unwrap();
            tokio::time::sleep(DELAY / 10).await;
        }
        client.read_exact(&mut answer).await.unwrap();
        let took = begun.elapsed();
        assert!(took >= DELAY && took < 5 * DELAY, "{took:?}");
        drop(peer);
        assert_eq!(client.read(&mut answer).await.unwrap(), 0);
    }
}
