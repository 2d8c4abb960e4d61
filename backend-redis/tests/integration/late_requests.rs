//! Waiters that are cancelled while they are granted the lock; reports and renewals that arrive
//! after the removal of their attempt.

use std::time::Duration;

use tenure_core::Release;
use tenure_test_servers::{redis::Server, wire::Proxy};
use tokio::time::sleep;

use crate::common::{
    DelayedPath, OPERATION_TIMEOUT, client, enqueue_waiter, expect_granted, hold, is_unused, key,
    millis, queue_length, seconds, wait_until,
};

/// Much longer than any wait of these tests that must not depend on it.
const TTL: Duration = seconds(60);
const ROUNDS: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a4_waiter_cancelled_during_its_grant_blocks_nobody() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let first = client(&server.url(), TTL).await;
    let cancelling = client(&proxy.url(), TTL).await;
    for round in 0..ROUNDS {
        let holder = hold(&first, "a").await;
        let cancelled = enqueue_waiter(&server, &cancelling, "a", 1).await;
        let next = match round / 5 % 2 {
            0 => None,
            _ => Some(enqueue_waiter(&server, &first, "a", 2).await),
        };
        // From zero to a few round trips.
        let moment = Duration::from_micros(round / 10 * 100);
        match round % 5 {
            // The server has granted the lock, and the message is still on its way.
            0 => {
                proxy.hold_replies();
                let _ = holder.release().await;
                cancelled.abort();
                sleep(moment).await;
                proxy.release_replies();
            }
            // The message arrives while the waiter is being cancelled.
            1 => {
                proxy.hold_replies();
                let _ = holder.release().await;
                proxy.release_replies();
                sleep(moment).await;
                cancelled.abort();
            }
            // The release and the cancellation reach the server together.
            2 => {
                let release = tokio::spawn(async move { holder.release().await });
                sleep(moment).await;
                cancelled.abort();
                let _ = release.await.unwrap();
            }
            // The waiter is removed before the release.
            3 => {
                cancelled.abort();
                sleep(moment).await;
                let _ = holder.release().await;
            }
            // The cancellation arrives late.
            _ => {
                proxy.hold_requests();
                let _ = holder.release().await;
                sleep(moment).await;
                cancelled.abort();
                sleep(millis(1)).await;
                proxy.release_requests();
            }
        }
        // If the grant was faster than the cancellation, this gives the lock back.
        drop(cancelled.await);
        if let Some(next) = next {
            let next = expect_granted("the next waiter is granted", OPERATION_TIMEOUT, next).await;
            let released = next.release().await;
            assert!(
                matches!(released, Release::Released),
                "round {round}: {released:?}"
            );
        }
        wait_until("the lock is free", OPERATION_TIMEOUT, || {
            is_unused(&server, "a")
        })
        .await;
        assert_eq!(cancelling.live_attempts(), 0, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn w5_report_arriving_after_cancellation_creates_nothing() {
    let server = Server::builder().start().unwrap();
    let first = client(&server.url(), TTL).await;
    for is_held in [true, false] {
        let holder = hold(&first, "a").await;
        let path = DelayedPath::start(&server);
        let late = client(&path.url(), seconds(3)).await;
        let waiter = enqueue_waiter(&server, &late, "a", 1).await;
        path.bypass();
        path.cut_after_script_sent().await;
        waiter.abort();
        wait_until("the entry is removed", OPERATION_TIMEOUT, || {
            queue_length(&server, "a") == 0
        })
        .await;
        if is_held {
            path.release(&server).await;
            holder.renew().await.unwrap();
            assert_eq!(
                queue_length(&server, "a"),
                0,
                "a late request left a waiter"
            );
            let _ = holder.release().await;
        } else {
            let _ = holder.release().await;
            path.release(&server).await;
        }
        assert!(is_unused(&server, "a"), "a late request holds the lock");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k2_renewal_arriving_after_release_revives_nothing() {
    let server = Server::builder().start().unwrap();
    let other = client(&server.url(), TTL).await;
    for is_taken in [false, true] {
        let path = DelayedPath::start(&server);
        let late = client(&path.url(), seconds(3)).await;
        let guard = hold(&late, "a").await;
        path.bypass();
        path.cut_after_script_sent().await;
        let released = guard.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
        if !is_taken {
            path.release(&server).await;
            assert!(is_unused(&server, "a"), "the old grant was revived");
            continue;
        }
        let next = hold(&other, "a").await;
        let record = || server.text(&["GET", &key("a", "holder")]).unwrap();
        let before = record();
        path.release(&server).await;
        assert_eq!(record(), before, "another client's grant was changed");
        next.renew().await.unwrap();
        let _ = next.release().await;
    }
}
