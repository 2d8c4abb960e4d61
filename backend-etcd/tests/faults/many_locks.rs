//! Many locks and many waiters of one client.

use std::time::Duration;

use tenure_core::{Client, Guard, Release, loss::LossReason};
use tenure_test_servers::{etcd::Server, wire::Proxy};
use tokio::time::sleep;

use crate::common::{
    WAIT_LIMIT, acquire_free, client, compact, etcdctl, expect_granted, millis, seconds,
    spawn_acquire, wait_for_waiters, wait_until,
};

/// Acquires many locks, a hundred at a time.
async fn acquire_all(client: &Client, count: usize) -> Vec<Guard> {
    let mut guards = Vec::with_capacity(count);
    for start in (0..count).step_by(100) {
        let tasks: Vec<_> = (start..(start + 100).min(count))
            .map(|index| {
                let client = client.clone();
                tokio::spawn(async move { acquire_free(&client, &format!("lock-{index}")).await })
            })
            .collect();
        for task in tasks {
            guards.push(task.await.unwrap());
        }
    }
    guards
}

async fn release_all(mut guards: Vec<Guard>) {
    while !guards.is_empty() {
        let rest = guards.split_off(guards.len().min(100));
        let part = std::mem::replace(&mut guards, rest);
        let release = |guard: Guard| tokio::spawn(async move { guard.release().await });
        let tasks: Vec<_> = part.into_iter().map(release).collect();
        for task in tasks {
            assert!(matches!(task.await.unwrap(), Release::Released));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k1_ten_thousand_locks_share_one_keep_alive() {
    const LOCKS: usize = 10_000;
    let ttl = seconds(15);
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), ttl).await;
    let _ = acquire_free(&client, "lease").await.release().await;
    let guards = acquire_all(&client, LOCKS).await;
    // Their watches start a little later.
    wait_until("all locks are watched", WAIT_LIMIT * 2, || {
        proxy.count("Watch.message") >= LOCKS
    })
    .await;
    sleep(millis(500)).await;
    proxy.reset();
    sleep(ttl).await;
    let counts: Vec<_> = [
        "LeaseKeepAlive",
        "LeaseKeepAlive.message",
        "Txn",
        "LeaseGrant",
        "Watch.message",
    ]
    .map(|name| (name, proxy.count(name)))
    .into();
    assert!(guards.iter().all(|guard| guard.check().is_ok()));
    let keep_alives = counts[0].1 + counts[1].1;
    // Three renewals, each after a third of a TTL, for each of the moments at which the locks were
    // acquired.
    assert!(keep_alives <= 12, "K1: {counts:?}");
    assert!(counts[2].1 <= 24, "K1: {counts:?}");
    release_all(guards).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn k1_w1_waiters_share_a_stream_and_their_reports() {
    const WAITERS: usize = 200;
    let ttl = seconds(12);
    let server = Server::builder().start().unwrap();
    let other = client(&server.url(), ttl).await;
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), ttl).await;
    let guard = acquire_free(&other, "a").await;
    let mut waiters = Vec::new();
    for count in 1..=WAITERS {
        waiters.push(spawn_acquire(&client, "a"));
        if count % 20 == 0 {
            wait_for_waiters(&other, "a", count).await;
        }
    }
    proxy.reset();
    sleep(ttl).await;
    assert_eq!(proxy.count("Watch"), 0, "they share one stream");
    let txns = proxy.count("Txn");
    assert!(
        txns <= WAITERS / 2,
        "K1: {txns} transactions for {WAITERS} waiters in one TTL"
    );
    let _ = guard.release().await;
    let mut tokens = Vec::new();
    for _ in 0..WAITERS {
        let (guard, index, _) = next_granted(&mut waiters).await;
        tokens.push(guard.token());
        drop(waiters.swap_remove(index));
        let _ = guard.release().await;
    }
    assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]), "W1");
}

/// The first waiter that was granted.
async fn next_granted(waiters: &mut [tokio::task::JoinHandle<Guard>]) -> (Guard, usize, Duration) {
    let began = tokio::time::Instant::now();
    loop {
        let done = waiters
            .iter()
            .position(tokio::task::JoinHandle::is_finished);
        if let Some(index) = done {
            let guard = (&mut waiters[index]).await.unwrap();
            return (guard, index, began.elapsed());
        }
        assert!(began.elapsed() < WAIT_LIMIT, "W2: no waiter was granted");
        sleep(millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k1_l2_large_batch_reports_evictions_like_a_small_one() {
    const LOCKS: usize = 300;
    let ttl = seconds(30);
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (client, other) = (
        client(&proxy.url(), ttl).await,
        client(&server.url(), ttl).await,
    );
    let guards = acquire_all(&client, LOCKS).await;
    for index in [0, 150, 299] {
        other
            .evict(guards[index].name(), guards[index].token())
            .await
            .unwrap();
        let lost = tokio::time::timeout(seconds(8), guards[index].lost()).await;
        assert!(lost.is_ok(), "L2: lock {index} of {LOCKS}");
    }
    assert_eq!(
        guards.iter().filter(|guard| guard.check().is_ok()).count(),
        LOCKS - 3
    );
    let again = expect_granted(
        "the evicted lock is free",
        WAIT_LIMIT,
        spawn_acquire(&other, "lock-150"),
    )
    .await;
    assert!(again.check().is_ok());
}

/// A renewal does not read most entries of a large batch, because the watches would report a
/// change. Here the watches cannot.
#[tokio::test(flavor = "multi_thread")]
async fn k1_l2_large_batch_reports_compacted_deletions() {
    const LOCKS: usize = 300;
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), seconds(9)).await;
    let guards = acquire_all(&client, LOCKS).await;
    // Waits until the server has confirmed the watches of all of them.
    let renewed: Vec<_> = guards.iter().map(Guard::valid_until).collect();
    wait_until("all locks are renewed", WAIT_LIMIT, || {
        let mut times = guards.iter().zip(&renewed);
        times.all(|(guard, before)| guard.valid_until() > *before)
    })
    .await;
    proxy.refuse(true).unwrap();
    proxy.cut().unwrap();
    for index in [0, 150, 299] {
        let prefix = format!("default/lock-{index}/");
        let deleted = etcdctl(&server.address(), &["del", "--prefix", &prefix]);
        assert_eq!(deleted.trim(), "1");
    }
    compact(&server.address());
    proxy.refuse(false).unwrap();
    for index in [0, 150, 299] {
        let lost = tokio::time::timeout(WAIT_LIMIT, guards[index].lost()).await;
        assert_eq!(lost, Ok(LossReason::Evicted), "L2: lock {index} of {LOCKS}");
    }
    let held = guards.iter().filter(|guard| guard.check().is_ok()).count();
    assert_eq!(held, LOCKS - 3);
}
