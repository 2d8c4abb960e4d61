//! A distant server.

use std::time::Duration;

use tenure_test_servers::redis::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Instant,
};

use crate::common::{
    OPERATION_TIMEOUT, builder, client, hold, millis, queue_length, seconds, wait_until,
};

/// Forwards bytes in both directions, each with this delay.
async fn delaying_proxy(server: &Server, delay: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = server.address();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(&target).await.unwrap();
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            for (mut from, mut to) in [(near_in, far_out), (far_in, near_out)] {
                let (send, mut receive) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
                tokio::spawn(async move {
                    let mut buffer = vec![0; 65536];
                    while let Ok(count @ 1..) = from.read(&mut buffer).await {
                        let _ = send.send((Instant::now() + delay, buffer[..count].to_vec()));
                    }
                });
                tokio::spawn(async move {
                    while let Some((at, bytes)) = receive.recv().await {
                        tokio::time::sleep_until(at).await;
                        if to.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    format!("redis://{address}")
}

/// L5, K1: all entries of a batch got the timeout of the shortest TTL in it, and a guard with a
/// long TTL came to share every batch with a waiter with a short one.
#[tokio::test(flavor = "multi_thread")]
async fn l5_waiter_with_a_short_ttl_loses_no_lease_with_a_long_one() {
    let server = Server::builder().start().unwrap();
    let near = client(&server.url(), seconds(60)).await;
    let _held = hold(&near, "x").await;
    let url = delaying_proxy(&server, millis(80)).await;
    let far = builder(&url).ttl(seconds(6)).connect().await.unwrap();
    let guard = hold(&far, "y").await;
    // Alone, the guard is renewed in time.
    tokio::time::sleep(seconds(8)).await;
    guard.check().unwrap();
    let lock = far.lock("x").unwrap().ttl(millis(200));
    let waiter = tokio::spawn(async move { lock.acquire_within(seconds(60)).await });
    wait_until("the waiter is queued", OPERATION_TIMEOUT, || {
        queue_length(&server, "x") == 1
    })
    .await;
    let begun = Instant::now();
    while begun.elapsed() < seconds(15) {
        tokio::time::sleep(millis(20)).await;
        assert!(
            guard.check().is_ok(),
            "l5: lost {:?} after a waiter joined: {:?}; waiter done: {}",
            begun.elapsed(),
            guard.check(),
            waiter.is_finished()
        );
    }
}
