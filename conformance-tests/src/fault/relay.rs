//! One connection of the proxy: a relay for each direction, with faults.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

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

use super::Fault;

/// The maximum size of one read.
const CHUNK_SIZE: usize = 16 * 1024;
/// The maximum number of chunks in flight in one direction.
const MAX_QUEUED_CHUNKS: usize = 64;

/// The faults of all connections of a proxy.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) fault: watch::Sender<Fault>,
    /// The number of resets.
    pub(super) resets: watch::Sender<u64>,
    pub(super) effects: AtomicU64,
}

impl Control {
    pub(super) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
        if fault == Fault::Refuse {
            self.reset();
        }
    }

    pub(super) fn reset(&self) {
        self.resets.send_modify(|resets| *resets += 1);
    }

    pub(super) fn took_effect(&self) {
        self.effects.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

impl Direction {
    /// Returns whether the fault holds data of this direction back.
    const fn is_held(self, fault: Fault) -> bool {
        match fault {
            Fault::BlackHole => true,
            Fault::HoldRequests => matches!(self, Self::Requests),
            Fault::HoldReplies => matches!(self, Self::Replies),
            _ => false,
        }
    }
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// One side closed the connection.
    Closed,
    /// A fault broke the connection.
    Broken,
}

/// Makes the close of a connection a reset.
pub(super) fn reset(stream: &TcpStream) {
    // Without this option the connection is closed normally.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Relays data until one side closes the connection or a fault breaks it.
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
        // Data in flight still arrives.
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
