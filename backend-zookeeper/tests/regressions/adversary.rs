//! Finds of an adversarial review; each test states the clause that it shows to be broken.

use std::time::Duration;

use tenure_core::Client;
use tenure_test_servers::wire::Proxy;
use tokio::time::Instant;

use crate::common::{hold, millis, room, store};

/// FAILS. L5, W1: a crowd of waiters of one client. An enqueue waits for one of the 256 permits
/// (`enqueue.rs`, `create`; `transport/mod.rs`, `MAX_OPERATIONS`) within its request time-out, and every
/// enqueue reads the whole queue. What has got no permit by then was not sent, yet it is answered
/// as `OutcomeUnknown`: the core removes the attempt (a `sync` and another list of the whole queue,
/// 64 at a time) and begins a new one. Until the removal has its turn, the old attempt still gets its
/// permit and enters the queue, as a ghost that is deleted later. Nobody cancels anything here, so
/// no node should be deleted. The lists (256 operations of some 100 KB each) also starve the heartbeats:
/// connections that serve are given up, and the locks of this client are lost. It does not recover
/// within a minute. With `COUNT=1000` it passes.
#[tokio::test(flavor = "multi_thread")]
async fn w1_a_crowd_of_waiters_of_one_client_enters_the_queue_once() {
    let number = |key: &str, default: u64| {
        std::env::var(key).map_or(default, |number| number.parse().unwrap())
    };
    let count = usize::try_from(number("COUNT", 2500)).unwrap();
    let _room = room().await;
    let server = crate::common::server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = Client::builder(store(&proxy.url()))
        .ttl(crate::common::LONG)
        .request_timeout(millis(number("REQUEST", 5000)))
        .connect()
        .await
        .unwrap();
    let kept = hold(&owner, "kept").await;
    let holder = crate::common::client_for(&server.url(), crate::common::LONG).await;
    let held = hold(&holder, "queue").await;
    let made = proxy.connections_made();
    proxy.pace_replies(millis(number("PACE", 2)));
    proxy.reset();
    let begun = Instant::now();
    for _ in 0..count {
        let lock = owner.lock("queue").unwrap();
        tokio::spawn(async move { lock.acquire().await });
    }
    let mut queue = 0;
    let mut slept = Duration::ZERO;
    while queue < count && begun.elapsed() < Duration::from_secs(60) {
        let before = Instant::now();
        tokio::time::sleep(millis(500)).await;
        slept = slept.max(before.elapsed());
        if let Ok(state) = holder.inspect(held.name()).await {
            queue = state.queue.len();
        }
        println!(
            "{:?}: {queue} in the queue, {} created, {} deleted, {} lists, {} connections; kept \
             {:?}, held {:?}",
            begun.elapsed(),
            proxy.count("create2"),
            proxy.count("delete"),
            proxy.count("getChildren2"),
            proxy.connections_made() - made,
            kept.remaining(),
            held.remaining(),
        );
    }
    println!("the longest sleep of 500 ms took {slept:?}");
    assert!(kept.check().is_ok(), "l5: the lock that is kept was lost");
    assert_eq!(proxy.count("delete"), 0, "attempts were given up");
    assert_eq!(queue, count);
}
