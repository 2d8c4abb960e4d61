//! A server that has reached its memory limit.

use std::time::Duration;

use tenure_core::{Release, error::ErrorKind};
use tenure_test_servers::{redis::Server, wire::Proxy};

use crate::common::{
    OPERATION_TIMEOUT, client, connected, enqueue_waiter, expect_granted, hold, keys, queue_length,
    seconds, wait_until, within,
};

/// Short, so that everything has to be renewed several times during the test.
const TTL: Duration = seconds(3);

#[tokio::test(flavor = "multi_thread")]
async fn k1_full_server_keeps_existing_grants_and_rejects_new_ones() {
    let server = Server::builder().start().unwrap();
    let holding = client(&server.url(), TTL).await;
    let waiting = client(&server.url(), TTL).await;
    let kept = hold(&holding, "kept").await;
    let passed = hold(&holding, "passed").await;
    let expiring = hold(&holding, "expiring").await;
    let waiter = enqueue_waiter(&server, &waiting, "passed", 1).await;
    let successor = enqueue_waiter(&server, &waiting, "expiring", 1).await;
    let freed = hold(&holding, "freed").await;

    let used: u64 = server
        .info("used_memory")
        .unwrap()
        .unwrap()
        .parse()
        .unwrap();
    let limit = |bytes: u64| {
        server
            .command(&["CONFIG", "SET", "maxmemory", &bytes.to_string()])
            .unwrap();
    };
    // Less than the memory in use, so that memory freed meanwhile does not make room.
    limit(used / 2);
    let all = || {
        let mut keys = keys(&server, "*");
        keys.sort();
        keys
    };
    let before = all();
    for lock in ["new", "passed"] {
        let lock = waiting.lock(lock).unwrap();
        let error = lock.acquire_within(seconds(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert!(error.is_retryable());
    }
    assert_eq!(all(), before, "rejected acquires leave nothing");
    assert_eq!(queue_length(&server, "passed"), 1);

    // The existing grants and entries are renewed for longer than a TTL.
    let proved = kept.valid_until();
    wait_until("more than a TTL has passed", OPERATION_TIMEOUT, || {
        for guard in [&kept, &passed, &expiring, &freed] {
            guard.check().unwrap();
        }
        kept.valid_until().since(proved) > TTL * 3 / 2
    })
    .await;
    assert_eq!(
        queue_length(&server, "passed"),
        1,
        "the waiter keeps its position"
    );

    // A lock is released, handed over by a release, and taken over from a silent holder.
    let released = freed.release().await;
    assert!(matches!(released, Release::Released), "{released:?}");
    assert!(keys(&server, "*freed*holder").is_empty());
    let token = passed.token();
    let released = passed.release().await;
    assert!(matches!(released, Release::Released), "{released:?}");
    // The grant arrives by push, before any report.
    let next = expect_granted("the waiter is granted", TTL / 3, waiter).await;
    assert!(next.token() > token, "t1");
    let token = expiring.token();
    expiring.abandon();
    let successor = expect_granted("the takeover", TTL * 2 + OPERATION_TIMEOUT, successor).await;
    assert!(successor.token() > token, "t1");
    for guard in [&next, &successor, &kept] {
        within("a renewal", OPERATION_TIMEOUT, guard.renew())
            .await
            .unwrap();
    }
    let error = holding
        .lock("new")
        .unwrap()
        .try_acquire()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    // A client can connect to a full server and inspect its state.
    let observer = client(&server.url(), TTL).await;
    connected(&observer).await;

    assert!(keys(&server, "*:new}:*").is_empty());

    limit(0);
    let guard = hold(&waiting, "new").await;
    for guard in [guard, next, successor, kept] {
        let released = guard.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
    }
}

/// A rejection that the client never received does not show that no copy of the request is on its way, so
/// the attempt is fenced off.
#[tokio::test(flavor = "multi_thread")]
async fn a4_attempt_whose_rejection_was_not_received_is_fenced_off() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let client = client(&format!("redis://{}", proxy.address()), TTL).await;
    connected(&client).await;
    server
        .command(&["CONFIG", "SET", "maxmemory", "1"])
        .unwrap();
    proxy.reset();
    proxy.hold_requests();
    let lock = client.lock("new").unwrap();
    let acquiring = tokio::spawn(async move { lock.acquire().await });
    wait_until("the request is on its way", OPERATION_TIMEOUT, || {
        proxy.count("EVALSHA") > 0
    })
    .await;
    acquiring.abort();
    proxy.release_requests();
    wait_until("the attempt is fenced off", OPERATION_TIMEOUT, || {
        !keys(&server, "*:new}:fenced:*").is_empty()
    })
    .await;
    for fence in keys(&server, "*}:fenced:*") {
        let left: i64 = server.text(&["PTTL", &fence]).unwrap().parse().unwrap();
        assert!((1..=600_000).contains(&left), "{fence}: {left} ms");
    }
}
