//! The round trips of each operation, counted on the wire.

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

/// The requests of a client, without the watch stream, whose messages no caller waits for.
fn calls(proxy: &Proxy) -> Vec<String> {
    let commands = proxy.commands().into_iter();
    let names = commands.map(|command| command.name);
    names.filter(|name| !name.starts_with("Watch")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn acquire_and_release_of_a_free_lock_take_one_round_trip_each() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), TTL).await;
    // How many locks in a row were released at once.
    let (mut quick, mut most) = (0, 0);
    // After 16 free acquisitions that may wait, a shorter transaction is used.
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
            // A lock that is released at once gets no watch. On a stalled machine no release comes
            // at once, and the end of its watch may come with the next lock.
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
                    "a lock released at once was watched"
                );
            }
        }
    }
    assert!(most > 1, "no lock was released at once");
    assert_eq!(proxy.connections_unreadable(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_wait_and_hand_over_take_one_round_trip_each() {
    let server = Server::builder().start().unwrap();
    let first = client(&server.url(), TTL).await;
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let second = client(&proxy.url(), TTL).await;
    let _ = acquire_free(&second, "lease").await.release().await;

    let guard = acquire_free(&first, "a").await;
    proxy.reset();
    let busy = second.lock("a").unwrap().try_acquire().await.unwrap();
    assert!(matches!(busy, Acquisition::Busy(_)));
    assert_eq!(calls(&proxy), ["Txn"], "a try_acquire");

    let _ = guard.release().await;

    for _ in 0..3 {
        let guard = acquire_free(&first, "a").await;
        proxy.reset();
        let waiter = spawn_acquire(&second, "a");
        wait_for_waiters(&first, "a", 1).await;
        let _ = guard.release().await;
        let next = expect_granted("the waiter is granted", WAIT_LIMIT, waiter).await;
        assert_eq!(
            calls(&proxy),
            ["Txn", "Txn"],
            "one to enter, one to find the position"
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
async fn first_contention_of_an_uncontended_lock_takes_one_more_round_trip() {
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
        let next = expect_granted("the waiter is granted", WAIT_LIMIT, waiter).await;
        assert!(next.token() > token);
        let _ = next.release().await;
    }
    assert_eq!(proxy.connections_unreadable(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_hand_over_within_a_client_takes_only_the_release() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), TTL).await;
    let mut guard = acquire_free(&client, "a").await;
    for _ in 0..3 {
        let (waits, waiting) = oneshot::channel();
        let mut waits = Some(waits);
        let lock = client.lock("a").unwrap();
        let waiter = tokio::spawn(async move {
            let on_wait = |_: &Waiting| {
                waits.take().map(|waits| waits.send(()));
            };
            let outcome = lock.acquire_observed(None, on_wait).await.unwrap();
            outcome.acquired().unwrap()
        });
        // An entry in the store is not enough: the client must have received the report that it
        // waits.
        timeout(WAIT_LIMIT, waiting).await.unwrap().unwrap();
        proxy.reset();
        assert!(matches!(guard.release().await, Release::Released));
        let next = expect_granted("the waiter is granted", WAIT_LIMIT, waiter).await;
        assert_eq!(
            calls(&proxy),
            ["Txn"],
            "the release returns the next holder"
        );
        next.check().unwrap();
        guard = next;
    }
    let _ = guard.release().await;
}
