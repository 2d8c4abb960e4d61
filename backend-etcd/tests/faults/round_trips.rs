//! The round trips of each operation, counted on the wire.

use tenure_core::{
    Acquisition, Release,
    backend::RenewalAnswers,
    id::AttemptId,
    request::{Enqueue, Owner, Renewal, Waiting},
};
use tenure_test_servers::{etcd::Server, wire::Proxy};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::common::{
    WAIT_LIMIT, acquire_free, client, driver, expect_granted, millis, name, seconds, spawn_acquire,
    wait_for_waiters, wait_until,
};

const TTL: std::time::Duration = seconds(60);

/// The requests of a client, without the watch stream, whose messages no caller waits for.
fn calls(proxy: &Proxy) -> Vec<String> {
    let commands = proxy.commands().into_iter();
    let names = commands.map(|command| command.name);
    names.filter(|name| !name.starts_with("Watch")).collect()
}

/// Waits until the client has sent a watch, and a little for the server to create it.
async fn wait_for_watch(proxy: &Proxy) {
    let watched = || proxy.count("Watch.message") > 0;
    wait_until("the waiter watches", WAIT_LIMIT, watched).await;
    sleep(millis(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acquire_and_release_of_a_free_lock_take_one_round_trip_each() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), TTL).await;
    for round in 0..3 {
        for waits in [false, true] {
            proxy.reset();
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
            assert_eq!(calls(&proxy), ["Txn"], "round {round}");
        }
    }
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
        wait_for_watch(&proxy).await;
        let _ = guard.release().await;
        let next = expect_granted("the waiter is granted", WAIT_LIMIT, waiter).await;
        assert_eq!(calls(&proxy), ["Txn"], "one to enter, none to hold");
        next.check().unwrap();
        proxy.reset();
        let released = next.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
        assert_eq!(
            (calls(&proxy), proxy.connections_unreadable()),
            (vec!["Txn".to_owned()], 0),
            "a release: {:?}",
            proxy.commands()
        );
        assert_eq!(proxy.count("Watch"), 0, "one stream for all watches");
    }
}

/// A waiter behind others prepares its turn, so that the turn itself takes no request.
#[tokio::test(flavor = "multi_thread")]
async fn w2_waiter_further_back_takes_one_more_round_trip_before_its_turn() {
    let server = Server::builder().start().unwrap();
    let first = client(&server.url(), TTL).await;
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let last = client(&proxy.url(), TTL).await;
    let _ = acquire_free(&last, "lease").await.release().await;

    let holder = acquire_free(&first, "a").await;
    let second = spawn_acquire(&first, "a");
    wait_for_waiters(&first, "a", 1).await;
    proxy.reset();
    let third = spawn_acquire(&last, "a");
    wait_for_watch(&proxy).await;
    assert_eq!(calls(&proxy), ["Txn"], "to enter");
    proxy.reset();
    let _ = holder.release().await;
    let second = expect_granted("the second is granted", WAIT_LIMIT, second).await;
    wait_until("the last waiter prepares", WAIT_LIMIT, || {
        calls(&proxy) == ["Txn"]
    })
    .await;
    sleep(millis(200)).await;
    let _ = second.release().await;
    let third = expect_granted("the third is granted", WAIT_LIMIT, third).await;
    assert_eq!(calls(&proxy), ["Txn"], "no request for the turn itself");
    third.check().unwrap();
    let _ = third.release().await;
    assert_eq!(proxy.connections_unreadable(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_hand_over_within_a_client_takes_only_the_release() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), TTL).await;
    let mut guard = acquire_free(&client, "a").await;
    for _ in 0..3 {
        proxy.reset();
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
        wait_for_watch(&proxy).await;
        proxy.reset();
        assert!(matches!(guard.release().await, Release::Released));
        let next = expect_granted("the waiter is granted", WAIT_LIMIT, waiter).await;
        assert_eq!(calls(&proxy), ["Txn"], "the watch reports the next holder");
        next.check().unwrap();
        guard = next;
    }
    let _ = guard.release().await;
}

/// K3: a renewal checks so many waiters that it takes several transactions.
#[tokio::test(flavor = "multi_thread")]
async fn k3_later_requests_of_a_renewal_are_not_sent_after_the_release() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let holder = client(&server.url(), TTL).await;
    let waiter = driver(&proxy.url()).await;
    let _holder = acquire_free(&holder, "a").await;
    let mut entries = Vec::new();
    for number in 0..120 {
        let attempt = AttemptId::from_u128(number + 1);
        let request = Enqueue::new(name("a"), attempt, Owner::default(), TTL, true);
        waiter.enqueue(request).await.unwrap();
        entries.push(Renewal::new(name("a"), attempt, TTL, None));
    }
    for (wanted, transactions) in [(true, 2..=usize::MAX), (false, 1..=1)] {
        proxy.reset();
        let answers = RenewalAnswers::new(|_, _| {}).wanted_while(move |_| wanted);
        waiter.renew(entries.clone(), answers).await;
        let sent = proxy.count("Txn");
        assert!(transactions.contains(&sent), "{sent} transactions");
    }
}
