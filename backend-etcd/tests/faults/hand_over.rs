//! The turn of a waiter, which its watch announces and proves, while entries and watches disappear.
//!
//! The TTL is so long that no report of a waiter finds what a watch has missed.

use tenure_core::{Client, Guard, error::ErrorKind};
use tenure_test_servers::{etcd::Server, wire::Proxy};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::common::{
    WAIT_LIMIT, acquire_free, client, etcdctl, expect_granted, millis, name, seconds,
    spawn_acquire, wait_for_waiters,
};

const TTL: std::time::Duration = seconds(90);

/// Less than a third of the TTL.
const SOON: std::time::Duration = seconds(15);

/// Starts a waiter and waits until it is at this place of the queue.
async fn wait_at(place: usize, waits: &Client, observer: &Client) -> JoinHandle<Guard> {
    let waiter = spawn_acquire(waits, "a");
    wait_for_waiters(observer, "a", place).await;
    waiter
}

/// The keys of the queue, in the order in which they were put.
fn keys(server: &Server) -> Vec<String> {
    let found = etcdctl(
        &server.address(),
        &[
            "get",
            "--prefix",
            "--keys-only",
            "--sort-by=CREATE",
            "default/a/",
        ],
    );
    found.split_whitespace().map(str::to_owned).collect()
}

/// Checks that the store has this guard as the holder.
async fn assert_holds(observer: &Client, guard: &Guard) {
    assert!(guard.check().is_ok());
    let state = observer.inspect(&name("a")).await.unwrap();
    let holder = state.holder.and_then(|holder| holder.attempt);
    assert_eq!(holder, Some(guard.attempt()), "X1: not the holder");
}

/// Both keys are deleted at one revision, whose events come in no particular order.
#[tokio::test(flavor = "multi_thread")]
async fn x1_w4_waiter_deleted_together_with_its_predecessor_is_not_granted() {
    let server = Server::builder().start().unwrap();
    let (first, second) = (
        client(&server.url(), TTL).await,
        client(&server.url(), TTL).await,
    );
    for round in 0..10 {
        let holder = acquire_free(&first, "a").await;
        let waiter = wait_at(1, &second, &first).await;
        sleep(millis(100)).await;
        etcdctl(&server.address(), &["del", "--prefix", "default/a/"]);
        let next = expect_granted("with a new attempt", SOON, waiter).await;
        assert!(next.token() > holder.token(), "round {round}");
        assert_holds(&first, &next).await;
        let _ = next.release().await;
        let _ = holder.release().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_w4_waiter_deleted_before_its_predecessor_is_not_granted() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (first, second) = (
        client(&server.url(), TTL).await,
        client(&proxy.url(), TTL).await,
    );
    // The waiter hears of both at once, or of one after the other.
    for held in [false, true] {
        let holder = acquire_free(&first, "a").await;
        let waiter = wait_at(1, &second, &first).await;
        sleep(millis(100)).await;
        if held {
            proxy.hold_replies();
        }
        etcdctl(&server.address(), &["del", &keys(&server)[1]]);
        let _ = holder.release().await;
        proxy.release_replies();
        let next = expect_granted("with a new attempt", SOON, waiter).await;
        assert_holds(&first, &next).await;
        let _ = next.release().await;
    }
}

/// The lease of the waiter expires while it is partitioned, and the holder releases.
#[tokio::test(flavor = "multi_thread")]
async fn x1_w4_waiter_whose_lease_lapsed_is_not_granted() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (first, second) = (
        client(&server.url(), TTL).await,
        client(&proxy.url(), seconds(2)).await,
    );
    let holder = acquire_free(&first, "a").await;
    let waiter = wait_at(1, &second, &first).await;
    sleep(millis(100)).await;
    proxy.hold_requests();
    proxy.hold_replies();
    wait_for_waiters(&first, "a", 0).await;
    let _ = holder.release().await;
    proxy.release_requests();
    proxy.release_replies();
    let next = expect_granted("with a new attempt", WAIT_LIMIT, waiter).await;
    assert_holds(&first, &next).await;
    let _ = next.release().await;
}

/// The predecessor, or the contender before it, leaves before the server has the watch.
#[tokio::test(flavor = "multi_thread")]
async fn w2_removal_before_the_watch_exists_is_not_missed() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (first, second) = (
        client(&server.url(), TTL).await,
        client(&proxy.url(), TTL).await,
    );
    let _ = acquire_free(&second, "lease").await.release().await;
    for waiters_before in [0, 1, 2] {
        let holder = acquire_free(&first, "a").await;
        let mut before = Vec::new();
        for place in 1..=waiters_before {
            before.push(wait_at(place, &first, &first).await);
        }
        proxy.delay_requests(millis(200));
        let waiter = wait_at(waiters_before + 1, &second, &first).await;
        let _ = holder.release().await;
        proxy.delay_requests(millis(0));
        for waiter in before {
            let guard = expect_granted("the waiter before", SOON, waiter).await;
            let _ = guard.release().await;
        }
        let next = expect_granted("the last waiter", SOON, waiter).await;
        assert_holds(&first, &next).await;
        let _ = next.release().await;
    }
}

/// Contenders in front of a waiter leave the queue in each order.
#[tokio::test(flavor = "multi_thread")]
async fn w3_waiter_is_granted_past_contenders_that_left() {
    let server = Server::builder().start().unwrap();
    let (first, second, third) = (
        client(&server.url(), TTL).await,
        client(&server.url(), TTL).await,
        client(&server.url(), TTL).await,
    );
    for leaving in [&[1][..], &[0], &[0, 1], &[1, 0]] {
        let holder = acquire_free(&first, "a").await;
        let before = [
            wait_at(1, &second, &first).await,
            wait_at(2, &second, &first).await,
        ];
        let waiter = wait_at(3, &third, &first).await;
        for (left, index) in leaving.iter().enumerate() {
            before[*index].abort();
            wait_for_waiters(&first, "a", 2 - left).await;
        }
        assert!(!waiter.is_finished(), "W1: the holder still holds");
        let _ = holder.release().await;
        for (index, waiter) in before.into_iter().enumerate() {
            if !leaving.contains(&index) {
                let guard = expect_granted("the waiter that stayed", SOON, waiter).await;
                assert_holds(&first, &guard).await;
                let _ = guard.release().await;
            }
        }
        let next = expect_granted("the last waiter", SOON, waiter).await;
        assert_holds(&first, &next).await;
        let _ = next.release().await;
    }
}

/// The connection of a waiter breaks, and its turn comes before it has another one.
#[tokio::test(flavor = "multi_thread")]
async fn w2_turn_during_a_reconnect_is_not_missed() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (first, second) = (
        client(&server.url(), TTL).await,
        client(&proxy.url(), TTL).await,
    );
    for waiters_before in [0, 1, 2] {
        let holder = acquire_free(&first, "a").await;
        let mut before = Vec::new();
        for place in 1..=waiters_before {
            before.push(wait_at(place, &first, &first).await);
        }
        let waiter = wait_at(waiters_before + 1, &second, &first).await;
        sleep(millis(100)).await;
        let made = proxy.connections_made();
        proxy.refuse(true).unwrap();
        proxy.cut().unwrap();
        let _ = holder.release().await;
        proxy.refuse(false).unwrap();
        for waiter in before {
            let guard = expect_granted("the waiter before", SOON, waiter).await;
            let _ = guard.release().await;
        }
        let next = expect_granted("the last waiter", SOON, waiter).await;
        assert_holds(&first, &next).await;
        assert!(proxy.connections_made() > made);
        let _ = next.release().await;
    }
}

/// Waiters of different clients that release at once: each removal meets watches that are being
/// created.
#[tokio::test(flavor = "multi_thread")]
async fn w2_no_turn_is_missed_when_locks_are_released_at_once() {
    const ROUNDS: usize = 100;
    let server = Server::builder().start().unwrap();
    for count in 2..=5 {
        let mut tasks = Vec::new();
        for _ in 0..count {
            let client = client(&server.url(), TTL).await;
            tasks.push(tokio::spawn(async move {
                let mut tokens = Vec::new();
                for _ in 0..ROUNDS {
                    let waiter = spawn_acquire(&client, "a");
                    let guard = expect_granted("W2", SOON, waiter).await;
                    tokens.push(guard.token());
                    assert!(guard.check().is_ok());
                    let _ = guard.release().await;
                }
                tokens
            }));
        }
        let mut tokens = Vec::new();
        for task in tasks {
            tokens.extend(task.await.unwrap());
        }
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), count * ROUNDS, "T1");
    }
}

/// A program overwrites the key of the waiter that is next in line.
#[tokio::test(flavor = "multi_thread")]
async fn s2_overwritten_waiter_is_not_granted() {
    let server = Server::builder().start().unwrap();
    let (first, second) = (
        client(&server.url(), TTL).await,
        client(&server.url(), TTL).await,
    );
    let holder = acquire_free(&first, "a").await;
    let lock = second.lock("a").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await.map(drop) });
    wait_for_waiters(&first, "a", 1).await;
    sleep(millis(100)).await;
    let key = keys(&server).remove(1);
    etcdctl(&server.address(), &["put", &key, "x"]);
    let _ = holder.release().await;
    let error = timeout(SOON, waiter).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(&key), "{error}");
}
