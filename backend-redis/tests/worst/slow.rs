//! A distant server, and messages that nobody of us sent.

use std::time::Duration;

use tenure_redis::Options;
use tenure_test_servers::{redis::Server, wire::Proxy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Instant,
};

use crate::common::{
    SOON, acquire, builder, client, hold, key, millis, queue_length, seconds, until, wait_in_line,
};

/// Carries bytes both ways, each of them so much later.
async fn distant(server: &Server, delay: Duration) -> String {
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

/// L5, K1: all entries of a batch are given the patience of the shortest TTL in it, and a guard of a
/// long TTL comes to share every batch with a waiter of a short one.
#[tokio::test(flavor = "multi_thread")]
async fn l5_a_waiter_with_a_short_ttl_costs_no_guard_with_a_long_one() {
    let server = Server::builder().start().unwrap();
    let near = client(&server.url(), seconds(60)).await;
    let _held = hold(&near, "x").await;
    let url = distant(&server, millis(80)).await;
    let far = builder(&url).ttl(seconds(6)).connect().await.unwrap();
    let guard = hold(&far, "y").await;
    // Alone it is renewed all right.
    tokio::time::sleep(seconds(8)).await;
    guard.check().unwrap();
    let lock = far.lock("x").unwrap().ttl(millis(200));
    let waiter = tokio::spawn(async move { lock.acquire_within(seconds(60)).await });
    until("it waits", SOON, || queue_length(&server, "x") == 1).await;
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

/// S2, L1: a message in the inbox that names a waiter's attempt makes a guard of whatever TTL it says.
#[tokio::test(flavor = "multi_thread")]
async fn s2_a_forged_grant_is_believed_for_no_longer_than_the_ttl_that_was_asked_for() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let near = client(&server.url(), seconds(60)).await;
    let held = hold(&near, "x").await;
    let far = builder(&proxy.url())
        .ttl(seconds(2))
        .connect()
        .await
        .unwrap();
    let waiter = wait_in_line(&server, &far, "x", 1).await;
    let entry = server.text(&["HGETALL", &key("x", "entries")]).unwrap();
    let mut words = entry.split_whitespace();
    let attempt = words.next().unwrap().to_owned();
    let inbox = words.nth(3).unwrap().to_owned();
    let message = format!("tenure/1 granted {attempt} 5 {} {}", u64::MAX, u64::MAX);
    // The renewal that would find it out does not come back.
    proxy.hold_requests();
    server
        .command(&["PUBLISH", &format!("tenure:inbox:{inbox}"), &message])
        .unwrap();
    let got = tokio::time::timeout(seconds(1), waiter).await;
    let Ok(Ok(forged)) = got else { return };
    tokio::time::sleep(seconds(4)).await;
    eprintln!("{forged:?} {:?} {:?}", forged.check(), forged.valid_until());
    assert!(
        forged.check().is_err() || held.check().is_err(),
        "x1, s2: two guards, 4 s after a forged grant to a waiter whose TTL is 2 s"
    );
    let _ = (acquire, Options::default);
}
