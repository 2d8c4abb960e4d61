//! A server that speaks enough of the protocol for a handshake and to answer the requests that a
//! test chooses.

use std::{
    io,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// The transaction id in all its answers.
pub(crate) const TRANSACTION: i64 = 1000;
/// The time-out of its sessions, in milliseconds.
const TIMEOUT: i32 = 8000;
const SESSION: i64 = 7;
const PING: i32 = 11;

/// The answer to a request.
pub(crate) enum Answer {
    /// The body after the reply's header.
    Body(Vec<u8>),
    /// Bytes that are sent unchanged.
    Raw(Vec<u8>),
}

#[derive(Default)]
struct Seen {
    /// The latest transaction id of each handshake.
    handshakes: Vec<i64>,
    /// How many answers were sent completely, without pings.
    answers: usize,
}

/// Listens on a free port of 127.0.0.1 until it is dropped.
pub(crate) struct Fake {
    pub(crate) address: String,
    seen: Arc<Mutex<Seen>>,
    task: AbortHandle,
}

impl Fake {
    /// `answer` takes the number of the operation.
    pub(crate) async fn start(answer: fn(i32) -> Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::<Mutex<Seen>>::default();
        let for_task = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&for_task);
                // The end of a client ends its connection only.
                clients.spawn(async move { drop(serve(stream, &seen, answer).await) });
            }
        });
        Self {
            address,
            seen,
            task: task.abort_handle(),
        }
    }

    pub(crate) fn handshakes(&self) -> Vec<i64> {
        self.seen.lock().unwrap().handshakes.clone()
    }

    pub(crate) fn answers(&self) -> usize {
        self.seen.lock().unwrap().answers
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Seen>,
    answer: fn(i32) -> Answer,
) -> io::Result<()> {
    let handshake = frame(&mut stream).await?;
    // These follow the protocol's version.
    let transaction = i64::from_be_bytes(handshake[4..12].try_into().unwrap());
    seen.lock().unwrap().handshakes.push(transaction);
    let mut welcome = [0_i32.to_be_bytes(), TIMEOUT.to_be_bytes()].concat();
    welcome.extend(SESSION.to_be_bytes());
    welcome.extend(16_i32.to_be_bytes());
    // The password, and the flag for a server that is not read-only.
    welcome.extend([0; 17]);
    send(&mut stream, &welcome).await?;
    loop {
        let request = frame(&mut stream).await?;
        let number = |at: usize| i32::from_be_bytes(request[at..at + 4].try_into().unwrap());
        let mut reply = number(0).to_be_bytes().to_vec();
        reply.extend(TRANSACTION.to_be_bytes());
        reply.extend(0_i32.to_be_bytes());
        let operation = number(4);
        if operation == PING {
            send(&mut stream, &reply).await?;
            continue;
        }
        match answer(operation) {
            Answer::Body(body) => {
                reply.extend(body);
                send(&mut stream, &reply).await?;
            }
            Answer::Raw(bytes) => stream.write_all(&bytes).await?,
        }
        seen.lock().unwrap().answers += 1;
    }
}

async fn frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    let mut frame = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn send(stream: &mut TcpStream, body: &[u8]) -> io::Result<()> {
    stream.write_u32(u32::try_from(body.len()).unwrap()).await?;
    stream.write_all(body).await
}
