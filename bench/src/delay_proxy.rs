//! A proxy that delays every reply of a server by the same time, in parallel.
//!
//! The proxy of the tests delays one chunk after the other: a reply that the server sends in two chunks
//! would take twice the delay.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    sync::mpsc::unbounded_channel,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::implementation::Failure;

/// The largest chunk that is read at once.
const MAX_CHUNK: usize = 64 * 1024;

/// A running proxy. Dropping it ends the listener; a connection ends when one of its ends closes it.
pub(crate) struct DelayProxy {
    pub(crate) address: String,
    acceptor: JoinHandle<()>,
}

impl DelayProxy {
    /// Starts a proxy in front of the server at this address, on a free port of 127.0.0.1.
    pub(crate) async fn start(server: &str, delay: Duration) -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?.to_string();
        let server = server.to_owned();
        let acceptor = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = server.clone();
                // Both ends notice a broken connection.
                tokio::spawn(async move { relay(client, &server, delay).await.ok() });
            }
        });
        Ok(Self { address, acceptor })
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// Relays requests at once, and replies after the delay.
async fn relay(client: TcpStream, server: &str, delay: Duration) -> Result<(), Failure> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (chunks, mut delayed) = unbounded_channel::<(Instant, Vec<u8>)>();
    let requests = async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let replies = async move {
        let mut chunk = vec![0; MAX_CHUNK];
        loop {
            let length = from_server.read(&mut chunk).await?;
            let read = chunk.get(..length).unwrap_or_default().to_vec();
            // Dropping the sender ends the writes after the last chunk.
            if length == 0 || chunks.send((Instant::now() + delay, read)).is_err() {
                return Ok(());
            }
        }
    };
    let writes = async {
        while let Some((due, chunk)) = delayed.recv().await {
            sleep_until(due).await;
            to_client.write_all(&chunk).await?;
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
    async fn chunks_are_delayed_in_parallel() {
        const DELAY: Duration = Duration::from_millis(100);
        // One after the other, these chunks would take twice the time that is allowed here.
        const CHUNKS: usize = 10;
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = server.local_addr().unwrap().to_string();
        let proxy = DelayProxy::start(&address, DELAY).await.unwrap();
        let mut client = TcpStream::connect(&proxy.address).await.unwrap();
        let (mut peer, _) = server.accept().await.unwrap();
        let begin = Instant::now();
        client.write_all(b"?").await.unwrap();
        assert_eq!(peer.read_u8().await.unwrap(), b'?');
        assert!(begin.elapsed() < DELAY, "a request was delayed");
        let mut answer = [0; CHUNKS];
        for _ in 0..CHUNKS {
            peer.write_all(b"!").await.unwrap();
            tokio::time::sleep(DELAY / 10).await;
        }
        client.read_exact(&mut answer).await.unwrap();
        let took = begin.elapsed();
        assert!(took >= DELAY && took < 5 * DELAY, "{took:?}");
        drop(peer);
        assert_eq!(client.read(&mut answer).await.unwrap(), 0);
    }
}
