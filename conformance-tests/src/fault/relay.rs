//! One connection of the proxy: two relays, and the faults on their way.

use std::time::Duration;

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{Fault, proxy::Control};

/// As much as is read at once.
const CHUNK_SIZE: usize = 16 * 1024;
/// So many pieces may be on their way in one direction.
const MAX_QUEUED_CHUNKS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

impl Direction {
    /// Whether that fault keeps back what goes this way.
    const fn is_held(self, fault: Fault) -> bool {
        match fault {
            Fault::BlackHole => true,
            Fault::HoldRequests => matches!(self, Self::Requests),
            Fault::HoldReplies => matches!(self, Self::Replies),
            _ => false,
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// One side closed it.
    Closed,
    /// A fault did.
    Broken,
}

/// Closes a connection so that the other side sees a reset.
pub(super) fn reset(stream: &TcpStream) {
    // Where that cannot be set, it is closed.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Runs until one side closes the connection or a fault breaks it.
pub(super) async fn run(
    mut client: TcpStream,
    mut server: TcpStream,
    resets: &mut watch::Receiver<u64>,
    control: &Control,
) {
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            end = relay(Direction::Requests, from_client, to_server, control) => end,
            end = relay(Direction::Replies, from_server, to_client, control) => end,
            _ = resets.changed() => {
                control.took_effect();
                End::Broken
            }
        }
    };
    if end == End::Broken {
        reset(&client);
        reset(&server);
    }
}

async fn relay(
    direction: Direction,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    control: &Control,
) -> End {
    let (arrived, mut leaving) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_QUEUED_CHUNKS);
    let reading = async {
        let mut chunk = vec![0; CHUNK_SIZE];
        loop {
            match from.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    let fault = *control.fault.borrow();
                    let delay = match fault {
                        Fault::Delay(delay) => delay,
                        _ => Duration::ZERO,
                    };
                    if !delay.is_zero() {
                        control.took_effect();
                    }
                    let due = Instant::now() + delay;
                    if arrived.send((due, chunk[..length].to_vec())).await.is_err() {
                        break;
                    }
                }
            }
        }
        // What is on its way still arrives.
        drop(arrived);
        std::future::pending::<End>().await
    };
    let writing = async {
        let mut fault = control.fault.subscribe();
        while let Some((due, chunk)) = leaving.recv().await {
            sleep_until(due).await;
            let now = *fault.borrow_and_update();
            if direction.is_held(now) {
                control.took_effect();
                if fault
                    .wait_for(|now| !direction.is_held(*now))
                    .await
                    .is_err()
                {
                    return End::Broken;
                }
            }
            if direction == Direction::Replies && *fault.borrow() == Fault::LoseReplies {
                control.took_effect();
                return End::Broken;
            }
            if to.write_all(&chunk).await.is_err() {
                return End::Closed;
            }
        }
        End::Closed
    };
    tokio::select! {
        end = writing => end,
        end = reading => end,
    }
}
