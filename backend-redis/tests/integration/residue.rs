//! The keys that remain in the store when all clients have gone (R4).

use std::time::Duration;

use tenure_core::{
    Client, Release, id::AttemptId, request::Enqueued, settings::StoreUrl, token::FencingToken,
};
use tenure_redis::{Options, RedisStore};
use tenure_test_servers::redis::Server;

use crate::common::{
    OPERATION_TIMEOUT, RawBackend, client, enqueue_waiter, expect_granted, hold, keys, millis,
    seconds, wait_until,
};

const TTL: Duration = seconds(2);
const NAMES: u64 = 8;

/// Enqueues a waiter that never sends anything again.
async fn enqueue_dead_waiter(dead: &RawBackend, name: &str) {
    let attempt = AttemptId::random().unwrap();
    let request = RawBackend::enqueue(name, attempt, TTL);
    let answer = dead.backend.enqueue(request).await.unwrap();
    assert!(matches!(answer, Enqueued::Waiting(_)), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_only_fencing_state_remains_for_a_known_time() {
    let server = Server::builder().start().unwrap();
    let first = client(&server.url(), TTL).await;
    let second = client(&server.url(), TTL).await;
    let dead = RawBackend::connect(&server.url(), Options::default()).await;
    for round in 0..40 {
        let name = &format!("lock {}", round % NAMES);
        let holder = first.lock(name).unwrap().acquire().await.unwrap();
        match round % 5 {
            0 => {
                let released = holder.release().await;
                assert!(matches!(released, Release::Released), "{released:?}");
            }
            1 => {
                let waiter = enqueue_waiter(&server, &second, name, 1).await;
                waiter.abort();
                drop(holder);
            }
            2 => {
                let waiter = enqueue_waiter(&server, &second, name, 1).await;
                drop(holder);
                let guard =
                    expect_granted("the waiter is granted", OPERATION_TIMEOUT, waiter).await;
                let _ = guard.release().await;
            }
            3 => {
                enqueue_dead_waiter(&dead, name).await;
                let _ = holder.release().await;
            }
            // Both the holder and the waiter die, and no attempt follows.
            _ if round >= 40 - NAMES => {
                enqueue_dead_waiter(&dead, name).await;
                holder.abandon();
            }
            // A holder that never sends anything again.
            _ => holder.abandon(),
        }
    }
    assert!(
        !dead.events().is_empty(),
        "a dead waiter was granted a lock"
    );
    let gone = first.shutdown(OPERATION_TIMEOUT).await;
    assert!(gone.unreleased.is_empty(), "{gone:?}");
    let _ = second.shutdown(OPERATION_TIMEOUT).await;

    let residue = dead.backend.capabilities().await.unwrap().residue.unwrap();
    // A key of a queue lives for at most twice the TTL.
    wait_until(
        "only fencing state remains",
        TTL * 2 + OPERATION_TIMEOUT,
        || {
            let keys = keys(&server, "*");
            keys.iter()
                .all(|key| key.ends_with("}:fence") || key.contains("}:fenced:"))
        },
    )
    .await;
    let left = keys(&server, "*");
    assert_eq!(
        left.iter().filter(|key| key.ends_with("}:fence")).count() as u64,
        NAMES
    );
    for key in left {
        let ms: i64 = server.text(&["PTTL", &key]).unwrap().parse().unwrap();
        let ms = u64::try_from(ms).unwrap_or_else(|_| panic!("{key} never expires ({ms})"));
        let fenced = key.contains(":fenced:");
        let most = if fenced { seconds(600) } else { residue };
        assert!(millis(ms) <= most, "{key}: {ms}");
    }
    // The same holds after the lock is used again.
    let third = client(&server.url(), TTL).await;
    let guard = hold(&third, "lock 0").await;
    let _ = guard.release().await;
    // On a busy machine a request may have gone unanswered, which leaves a fence.
    let left = keys(&server, "*lock%200*").into_iter();
    let left = left.filter(|key| !key.contains(":fenced:"));
    assert_eq!(left.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_tokens_above_a_floor_rise_after_any_deletion() {
    const FLOOR: u64 = 1 << 60;
    let server = Server::builder().start().unwrap();
    let life = || {
        let left = server.text(&["PTTL", "tenure:{default:x}:fence"]).unwrap();
        left.parse::<i64>().unwrap()
    };
    let plain = client(&server.url(), TTL).await;
    let _ = hold(&plain, "x").await.release().await;
    assert!(life() > 0, "by the clock: {}", life());
    let store = RedisStore::open(&StoreUrl::parse(&server.url()).unwrap(), Options::default());
    let builder = Client::builder(store.unwrap()).token_floor(FencingToken::new(FLOOR));
    let lifted = builder.connect().await.unwrap();
    let guard = hold(&lifted, "x").await;
    let first = guard.token();
    let _ = guard.release().await;
    assert!(life() > 0, "by the clock above the floor: {}", life());
    // Even if everything is deleted, tokens rise with the clock.
    server.command(&["FLUSHALL"]).unwrap();
    let guard = hold(&lifted, "x").await;
    let second = guard.token();
    assert!(second > first, "{second} after {first}");
    let _ = guard.release().await;
    // For a client without this floor, only the record of the last token keeps tokens rising. The
    // record is kept until the clock has caught up.
    let caught_up = i64::try_from(FLOOR / 1_000).unwrap();
    let guard = hold(&plain, "x").await;
    let third = guard.token();
    assert!(third > second, "{third} after {second}");
    assert!(life() > caught_up, "{}", life());
    // The same holds if the record is deleted while the lock is held.
    server
        .command(&["DEL", "tenure:{default:x}:fence"])
        .unwrap();
    let waiter = enqueue_waiter(&server, &plain, "x", 1).await;
    let _ = guard.release().await;
    let guard = expect_granted("the waiter is granted", OPERATION_TIMEOUT, waiter).await;
    assert!(guard.token() > third);
    assert!(life() > caught_up, "{}", life());
}
