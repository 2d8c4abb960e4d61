//! Two concurrent removals of one attempt, and a removal by another program.

use std::sync::Arc;

use tenure_core::{
    Release,
    id::AttemptId,
    request::{Enqueue, Enqueued, Owner, Remove, Removed},
};
use tenure_test_servers::{etcd::Server, wire::Proxy};
use tokio::time::{sleep, timeout};

use crate::common::{
    WAIT_LIMIT, acquire_free, builder, client, driver, etcdctl, millis, name, seconds, wait_until,
};

/// Two removals of one attempt are in flight at once: a release whose future was dropped continues
/// in the background, and the guard is released again. The first one is answered and gives the key
/// back. The second one is late and must not delete the key of the next attempt.
#[tokio::test(flavor = "multi_thread")]
async fn x1_late_second_removal_deletes_no_other_attempt() {
    let server = Server::builder().start().unwrap();
    let one = Proxy::for_etcd(server.address()).unwrap();
    let two = Proxy::for_etcd(server.address()).unwrap();
    let url = format!("etcd://{},{}", one.address(), two.address());
    let backend = driver(&url).await;
    let ttl = seconds(60);
    let enqueue = |attempt| {
        let owner = Owner::new("", "host", 1);
        Enqueue::new(name("a"), attempt, owner, ttl, true)
    };
    let remove = |attempt| {
        let backend = Arc::clone(&backend);
        let request = Remove::new(name("a"), attempt, ttl, true);
        tokio::spawn(async move { backend.remove(request).await })
    };
    let keys = || {
        let found = ["get", "--prefix", "--keys-only", "default/a/"];
        etcdctl(&server.address(), &found).trim().to_owned()
    };
    let (first, next) = (AttemptId::random().unwrap(), AttemptId::random().unwrap());
    backend.enqueue(enqueue(first)).await.unwrap();
    // The proxy that the client uses.
    let used_proxy = if one.count("Txn") > two.count("Txn") {
        &one
    } else {
        &two
    };

    used_proxy.hold_replies();
    used_proxy.reset();
    let removal = remove(first);
    wait_until("the first removal is sent", WAIT_LIMIT, || {
        used_proxy.count("Txn") == 1
    })
    .await;
    wait_until("the first removal is applied", WAIT_LIMIT, || {
        keys().is_empty()
    })
    .await;
    used_proxy.hold_requests();
    // Moves the client to the other proxy after a second.
    let other = Arc::clone(&backend);
    let reader = tokio::spawn(async move { other.inspect(&name("b")).await.map(drop) });
    sleep(millis(500)).await;
    let repeated = remove(first);
    wait_until("the second removal is sent", WAIT_LIMIT, || {
        used_proxy.count("Txn") == 2
    })
    .await;
    used_proxy.release_replies();
    assert_eq!(removal.await.unwrap().unwrap(), Removed::AsHolder);
    reader.await.unwrap().unwrap();
    let entered = backend.enqueue(enqueue(next)).await.unwrap();
    assert!(matches!(entered, Enqueued::Granted(_)));
    let before = keys();
    used_proxy.release_requests();
    let repeated = repeated.await;
    sleep(millis(300)).await;
    assert!(
        repeated.unwrap().is_ok(),
        "it finds the attempt already removed"
    );
    assert_eq!(keys(), before, "X1: the key of the next attempt is gone");
}

/// The core does this: the future of a release is dropped before its removal is sent, and the
/// release is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn r1_dropped_and_repeated_release_removes_once() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), seconds(3)).await;
    let guard = acquire_free(&client, "a").await;
    proxy.reset();
    // A renewal is in flight.
    proxy.hold_replies();
    wait_until("a renewal is sent", WAIT_LIMIT, || {
        proxy.count("LeaseKeepAlive") + proxy.count("LeaseKeepAlive.message") > 0
    })
    .await;
    // The future of the release is dropped before it has sent anything.
    assert!(timeout(millis(10), guard.release()).await.is_err());
    assert_eq!(proxy.count("Txn"), 0);
    let (again, ()) = tokio::join!(guard.release(), async {
        sleep(millis(20)).await;
        proxy.release_replies();
    });
    assert!(matches!(again, Release::Released), "{again:?}");
    let _ = acquire_free(&client, "a").await.release().await;
}

/// The driver uses another connection for its next request, and the answer counts all the same.
#[tokio::test(flavor = "multi_thread")]
async fn r1_answer_after_the_failover_timeout_counts() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    // The failover timeout is one second.
    let client = builder(&proxy.url()).request_timeout(seconds(3));
    let client = client.ttl(seconds(60)).connect().await.unwrap();
    let guard = acquire_free(&client, "a").await;
    proxy.delay_replies(seconds(2));
    let released = guard.release().await;
    assert!(matches!(released, Release::Released), "{released:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_release_of_deleted_lock_is_not_held() {
    let server = Server::builder().start().unwrap();
    let client = client(&server.url(), seconds(60)).await;
    let guard = acquire_free(&client, "a").await;
    etcdctl(&server.address(), &["del", "--prefix", "default/a/"]);
    let released = guard.release().await;
    assert!(matches!(released, Release::NotHeld(_)), "{released:?}");
}
