//! A server that has used up its memory.

use std::time::Duration;

use tenure_core::{Release, error::ErrorKind};
use tenure_test_servers::redis::Server;

use crate::common::{
    OPERATION_TIMEOUT, client, connected, enqueue_waiter, expect_granted, hold, keys, queue_length,
    seconds, wait_until, within,
};

/// Short, so that within the test everything has to be renewed several times.
const TTL: Duration = seconds(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_goes_on_with_what_it_has_and_takes_nothing_new() {
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
    // Less than is used, so that nothing that is freed meanwhile makes room.
    limit(used / 2);
    // That an attempt is fenced off is kept for its TTL, no longer.
    let lasting = || {
        let mut keys = keys(&server, "*");
        keys.retain(|key| !key.contains("}:fenced:"));
        keys.sort();
        keys
    };
    let before = lasting();
    for lock in ["new", "passed"] {
        let lock = waiting.lock(lock).unwrap();
        let error = lock.acquire_within(seconds(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert!(error.is_retryable());
    }
    assert_eq!(lasting(), before, "they leave nothing");
    assert_eq!(queue_length(&server, "passed"), 1);

    // What it has is renewed and reported for longer than a TTL.
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
        "the waiter has its place"
    );

    // It is released, handed over by a release, and taken over from a holder that is silent.
    let released = freed.release().await;
    assert!(matches!(released, Release::Released), "{released:?}");
    assert!(keys(&server, "*freed*holder").is_empty());
    let token = passed.token();
    let released = passed.release().await;
    assert!(matches!(released, Release::Released), "{released:?}");
    // By push, and no later by a report.
    let next = expect_granted("the waiter's turn", TTL / 3, waiter).await;
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
    // A client can come while it is full, and see what there is.
    let observer = client(&server.url(), TTL).await;
    connected(&observer).await;

    wait_until(
        "nothing but a fence is left of those that failed",
        OPERATION_TIMEOUT,
        || {
            let left = keys(&server, "*:new}:*");
            left.iter().all(|key| key.contains("}:fenced:"))
        },
    )
    .await;
    for fence in keys(&server, "*}:fenced:*") {
        let left: i64 = server.text(&["PTTL", &fence]).unwrap().parse().unwrap();
        assert!((1..=600_000).contains(&left), "{fence}: {left} ms");
    }

    limit(0);
    let guard = hold(&waiting, "new").await;
    for guard in [guard, next, successor, kept] {
        let released = guard.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
    }
}
