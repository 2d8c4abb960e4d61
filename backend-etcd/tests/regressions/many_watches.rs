//! Many locks on a connection that breaks, and many waiters that leave at once.

use tenure_core::{Client, Guard};
use tenure_test_servers::{etcd::Server, wire::Proxy};
use tokio::time::{Instant, sleep};

use crate::common::{
    WAIT_LIMIT, acquire_free, client, expect_granted, seconds, spawn_acquire, wait_for_waiters,
    wait_until,
};

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

/// L5: a connection with thousands of watches breaks, and the watches are restarted.
#[tokio::test(flavor = "multi_thread")]
async fn l5_thousands_of_watches_are_restarted_once() {
    const LOCKS: usize = 10_000;
    let ttl = seconds(6);
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), ttl).await;
    let guards = acquire_all(&client, LOCKS).await;
    wait_until("all locks are watched", WAIT_LIMIT * 2, || {
        proxy.count("Watch.message") >= LOCKS
    })
    .await;
    sleep(seconds(2)).await;
    proxy.reset();
    let before = proxy.connections_made();
    proxy.cut().unwrap();
    let began = Instant::now();
    let mut lost = 0;
    while began.elapsed() < seconds(20) {
        lost = guards.iter().filter(|guard| guard.check().is_err()).count();
        if lost > 0 {
            break;
        }
        sleep(seconds(1)).await;
        eprintln!(
            "{:?}: {} connections, {} watches, {} txns",
            began.elapsed(),
            proxy.connections_made() - before,
            proxy.count("Watch.message"),
            proxy.count("Txn")
        );
    }
    let (watches, made) = (
        proxy.count("Watch.message"),
        proxy.connections_made() - before,
    );
    // Two hundred at a time; releasing all of them at once is another test's subject.
    let mut guards = guards;
    while !guards.is_empty() {
        let part = guards.split_off(guards.len().saturating_sub(200));
        let tasks: Vec<_> = part
            .into_iter()
            .map(|guard| tokio::spawn(async move { guard.release().await }))
            .collect();
        for task in tasks {
            let _ = task.await;
        }
    }
    assert_eq!(lost, 0, "L5: {lost} of {LOCKS} lost");
    assert!(
        watches < LOCKS * 3,
        "{watches} messages, {made} connections"
    );
}

/// W1, W3: all but the last of a thousand waiters leave at once.
#[tokio::test(flavor = "multi_thread")]
async fn w3_last_waiter_stays_when_a_thousand_leave() {
    const WAITERS: usize = 1_000;
    let ttl = seconds(30);
    let server = Server::builder().start().unwrap();
    let (holder, leaving, last) = (
        client(&server.url(), ttl).await,
        client(&server.url(), ttl).await,
        client(&server.url(), ttl).await,
    );
    let guard = acquire_free(&holder, "a").await;
    let began = Instant::now();
    let mut waiters = Vec::new();
    for count in 1..=WAITERS {
        waiters.push(spawn_acquire(&leaving, "a"));
        if count % 100 == 0 {
            wait_for_waiters(&holder, "a", count).await;
        }
    }
    eprintln!("entered in {:?}", began.elapsed());
    let remaining = spawn_acquire(&last, "a");
    wait_for_waiters(&holder, "a", WAITERS + 1).await;
    let began = Instant::now();
    for waiter in &waiters {
        waiter.abort();
    }
    wait_for_waiters(&holder, "a", 1).await;
    eprintln!("left in {:?}", began.elapsed());
    let _ = guard.release().await;
    let began = Instant::now();
    let next = expect_granted("the last waiter is granted", seconds(9), remaining).await;
    eprintln!("granted after {:?}", began.elapsed());
    assert!(next.check().is_ok());
}
