//! Waiters that are cancelled while they are granted; reports and renewals that arrive after the
//! removal of what they are about.

use std::time::Duration;

use tenure_core::Release;
use tenure_test_servers::{redis::Server, wire::Proxy};
use tokio::time::sleep;

use crate::common::{
    Detour, SOON, client, granted, hold, is_idle, key, millis, queue_length, seconds, until,
    wait_in_line,
};

/// Much longer than any of these tests may wait for what must not wait for it.
const TTL: Duration = seconds(60);
const ROUNDS: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a4_a_waiter_cancelled_while_it_is_granted_keeps_nobody_from_the_lock() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let first = client(&server.url(), TTL).await;
    let fickle = client(&proxy.url(), TTL).await;
    for round in 0..ROUNDS {
        let holder = hold(&first, "a").await;
        let cancelled = wait_in_line(&server, &fickle, "a", 1).await;
        let next = match round / 5 % 2 {
            0 => None,
            _ => Some(wait_in_line(&server, &first, "a", 2).await),
        };
        // From zero to some round trips later.
        let moment = Duration::from_micros(round / 10 * 100);
        match round % 5 {
            // The server has granted it, and the word of it is on its way.
            0 => {
                proxy.hold_replies();
                let _ = holder.release().await;
                cancelled.abort();
                sleep(moment).await;
                proxy.release_replies();
            }
            // The word of it comes as the waiter goes.
            1 => {
                proxy.hold_replies();
                let _ = holder.release().await;
                proxy.release_replies();
                sleep(moment).await;
                cancelled.abort();
            }
            // The release and the cancellation meet at the server.
            2 => {
                let release = tokio::spawn(async move { holder.release().await });
                sleep(moment).await;
                cancelled.abort();
                let _ = release.await.unwrap();
            }
            // It has gone before the release.
            3 => {
                cancelled.abort();
                sleep(moment).await;
                let _ = holder.release().await;
            }
            // The cancellation is late.
            _ => {
                proxy.hold_requests();
                let _ = holder.release().await;
                sleep(moment).await;
                cancelled.abort();
                sleep(millis(1)).await;
                proxy.release_requests();
            }
        }
        // If it was faster, it is given back here.
        drop(cancelled.await);
        if let Some(next) = next {
            let next = granted("the next waiter's turn", SOON, next).await;
            let released = next.release().await;
            assert!(
                matches!(released, Release::Released),
                "round {round}: {released:?}"
            );
        }
        until("the lock is free", SOON, || is_idle(&server, "a")).await;
        assert_eq!(fickle.live_attempts(), 0, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn w5_a_report_that_arrives_after_its_cancellation_creates_nothing() {
    let server = Server::builder().start().unwrap();
    let first = client(&server.url(), TTL).await;
    for is_held in [true, false] {
        let holder = hold(&first, "a").await;
        let detour = Detour::start(&server);
        let late = client(&detour.url(), seconds(3)).await;
        let waiter = wait_in_line(&server, &late, "a", 1).await;
        detour.bypass();
        detour.cut_off().await;
        waiter.abort();
        until("its place is given up", SOON, || {
            queue_length(&server, "a") == 0
        })
        .await;
        if is_held {
            detour.let_go(&server).await;
            holder.renew().await.unwrap();
            assert_eq!(queue_length(&server, "a"), 0, "a ghost waits");
            let _ = holder.release().await;
        } else {
            let _ = holder.release().await;
            detour.let_go(&server).await;
        }
        assert!(is_idle(&server, "a"), "a ghost holds the lock");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k2_a_renewal_that_arrives_after_its_release_revives_nothing() {
    let server = Server::builder().start().unwrap();
    let other = client(&server.url(), TTL).await;
    for is_taken in [false, true] {
        let detour = Detour::start(&server);
        let late = client(&detour.url(), seconds(3)).await;
        let guard = hold(&late, "a").await;
        detour.bypass();
        detour.cut_off().await;
        let released = guard.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
        if !is_taken {
            detour.let_go(&server).await;
            assert!(is_idle(&server, "a"), "the old grant is back");
            continue;
        }
        let next = hold(&other, "a").await;
        let record = || server.text(&["GET", &key("a", "holder")]).unwrap();
        let before = record();
        detour.let_go(&server).await;
        assert_eq!(record(), before, "somebody else's grant was touched");
        next.renew().await.unwrap();
        let _ = next.release().await;
    }
}
