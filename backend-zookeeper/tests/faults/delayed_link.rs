//! A network with latency: every reply arrives a fixed time after the server sent it, however many are on
//! the way. (The proxy of the test servers delays the pieces one after the other.)

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::common::millis;

pub(crate) struct DelayedLink {
    address: String,
    delay: Arc<AtomicU64>,
    cuts: watch::Sender<()>,
    open: Arc<AtomicUsize>,
}

impl DelayedLink {
    pub(crate) async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Self {
            address: listener.local_addr().unwrap().to_string(),
            delay: Arc::default(),
            cuts: watch::Sender::new(()),
            open: Arc::default(),
        };
        let (server, cuts) = (server.to_owned(), link.cuts.clone());
        let (delay, open) = (Arc::clone(&link.delay), Arc::clone(&link.open));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, mut cut) = (server.clone(), cuts.subscribe());
                let (delay, open) = (Arc::clone(&delay), Arc::clone(&open));
                open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    tokio::select! {
                        _ = relay(client, server, delay) => {}
                        _ = cut.changed() => {}
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        link
    }

    pub(crate) fn url(&self) -> String {
        format!("zookeeper://{}", self.address)
    }

    /// From now on replies arrive this many milliseconds late.
    pub(crate) fn delay_replies(&self, delay: u64) {
        self.delay.store(delay, Ordering::SeqCst);
    }

    /// Breaks every connection.
    pub(crate) fn cut(&self) {
        self.cuts.send_replace(());
    }

    pub(crate) fn connections_open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

async fn relay(mut client: TcpStream, server: String, delay: Arc<AtomicU64>) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let (pieces, mut late) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let read = async {
        loop {
            let mut piece = vec![0; 1 << 16];
            let length = from_server.read(&mut piece).await?;
            if length == 0 {
                return Ok(());
            }
            piece.truncate(length);
            let due = Instant::now() + millis(delay.load(Ordering::SeqCst));
            let _ = pieces.send((due, piece));
        }
    };
    let write = async {
        while let Some((due, piece)) = late.recv().await {
            sleep_until(due).await;
            to_client.write_all(&piece).await?;
        }
        Ok(())
    };
    let requests = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        Ok(())
    };
    tokio::select! {
        done = read => done,
        done = write => done,
        done = requests => done,
    }
}
