//! How many round trips each step takes, counted on the wire.

use tenure_core::{Acquisition, Release, request::Waiting};
use tenure_test_servers::{etcd::Server, wire::Proxy};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use crate::common::{
    WAIT_LIMIT, acquire_free, client, expect_granted, millis, seconds, spawn_acquire,
    wait_for_waiters,
};

const TTL: std::time::Duration = seconds(60);

/// What was asked for; the stream of watches aside, for whose messages nobody waits.
fn calls(proxy: &Proxy) -> Vec<String> {
    let commands = proxy.commands().into_iter();
    let names = commands.map(|command| command.name);
    names.filter(|name| !name.starts_with("Watch")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_a_free_lock_and_giving_it_back_is_one_round_trip_each() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), TTL).await;
    // How many in a row were given back at once.
    let (mut quick, mut most) = (0, 0);
    // After 16 free ones that may wait, it is a shorter transaction.
    for round in 0..20 {
        for waits in [false, true] {
            proxy.reset();
            let begin = Instant::now();
            let guard = if waits {
                client.lock("a").unwrap().acquire().await.unwrap()
            } else {
                acquire_free(&client, "a").await
            };
            let mut expected = vec!["Txn"];
            if round == 0 && !waits {
                // The first lock of a TTL needs a lease.
                expected.insert(0, "LeaseGrant");
            }
            assert_eq!(calls(&proxy), expected, "round {round}");
            guard.check().unwrap();
            proxy.reset();
            let released = guard.release().await;
            assert!(matches!(released, Release::Released));
            assert_eq!(calls(&proxy), ["DeleteRange"], "round {round}");
            // What is given back at once is not worth a watch. Where the machine stands still nothing is,
            // and the end of such a watch may come with the next one.
            if begin.elapsed() >= millis(15) {
                quick = 0;
                continue;
            }
            quick += 1;
            most = quick.max(most);
            if quick > 1 {
                assert_eq!(
                    proxy.count("Watch.message"),
                    0,
                    "it was given back too soon to be watched"
                );
            }
        }
    }
    assert!(most > 1, "nothing was given back at once");
    assert_eq!(proxy.connections_unreadable(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_waiting_is_one_round_trip_and_a_hand_over_another() {
    let server = Server::builder().start().unwrap();
    let first = client(&server.url(), TTL).await;
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let second = client(&proxy.url(), TTL).await;
    let _ = acquire_free(&second, "lease").await.release().await;

    let guard = acquire_free(&first, "a").await;
    proxy.reset();
    let busy = second.lock("a").unwrap().try_acquire().await.unwrap();
    assert!(matches!(busy, Acquisition::Busy(_)));
    assert_eq!(calls(&proxy), ["Txn"], "a try");

    let _ = guard.release().await;

    for _ in 0..3 {
        let guard = acquire_free(&first, "a").await;
        proxy.reset();
        let waiter = spawn_acquire(&second, "a");
        wait_for_waiters(&first, "a", 1).await;
        let _ = guard.release().await;
        let next = expect_granted("it is its turn", WAIT_LIMIT, waiter).await;
        assert_eq!(
            calls(&proxy),
            ["Txn", "Txn"],
            "to enter, and to ask whose turn it is"
        );
        next.check().unwrap();
        proxy.reset();
        let released = next.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
        assert_eq!(
            (calls(&proxy), proxy.connections_unreadable()),
            (vec!["DeleteRange".to_owned()], 0),
            "a release: {:?}",
            proxy.commands()
        );
        assert_eq!(proxy.count("Watch"), 0, "one stream for all watches");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_always_free_and_is_not_costs_one_round_trip_more_once() {
    let server = Server::builder().start().unwrap();
    let first = client(&server.url(), TTL).await;
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let second = client(&proxy.url(), TTL).await;
    for _ in 0..16 {
        let guard = second.lock("a").unwrap().acquire().await.unwrap();
        let _ = guard.release().await;
    }
    for expected in [2, 1, 1] {
        let guard = acquire_free(&first, "a").await;
        proxy.reset();
        let waiter = spawn_acquire(&second, "a");
        wait_for_waiters(&first, "a", 1).await;
        assert_eq!(calls(&proxy), vec!["Txn"; expected], "to enter");
        assert!(!waiter.is_finished());
        let token = guard.token();
        let _ = guard.release().await;
        let next = expect_granted("it is its turn", WAIT_LIMIT, waiter).await;
        assert!(next.token() > token);
        let _ = next.release().await;
    }
    assert_eq!(proxy.connections_unreadable(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_hand_over_within_a_client_is_the_release_alone() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), TTL).await;
    let mut guard = acquire_free(&client, "a").await;
    for _ in 0..3 {
        let (waits, waiting) = oneshot::channel();
        let mut waits = Some(waits);
        let lock = client.lock("a").unwrap();
        let waiter = tokio::spawn(async move {
            let told = |_: &Waiting| {
                waits.take().map(|waits| waits.send(()));
            };
            let outcome = lock.acquire_observed(None, told).await.unwrap();
            outcome.acquired().unwrap()
        });
        // That it is in the store is not enough: the client has to have been told.
        timeout(WAIT_LIMIT, waiting).await.unwrap().unwrap();
        proxy.reset();
        assert!(matches!(guard.release().await, Release::Released));
        let next = expect_granted("it is its turn", WAIT_LIMIT, waiter).await;
        assert_eq!(calls(&proxy), ["Txn"], "the release tells whose turn it is");
        next.check().unwrap();
        guard = next;
    }
    let _ = guard.release().await;
}
