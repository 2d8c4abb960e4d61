//! A server that is killed, and a server that loses its data.

use std::time::Duration;

use tenure_core::{Guard, clock::Instant, error::ErrorKind, loss::LossReason};
use tenure_test_servers::redis::Server;
use tokio::time::sleep;

use crate::common::{
    OPERATION_TIMEOUT, client, connected, enqueue_waiter, expect_granted, hold, hold_all, millis,
    queue_length, seconds, wait_until, within,
};

fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("lock {index}")).collect()
}

fn deadlines(guards: &[Guard]) -> Vec<Instant> {
    guards.iter().map(Guard::valid_until).collect()
}

/// With durability `volatile`, a holder from before the restart and one from after it may both
/// believe in the same lock, until the deadline that the older one had before the restart. Nothing
/// else may happen: no proof for the older holder, no two new holders, no falling token.
#[tokio::test(flavor = "multi_thread")]
async fn x1_killed_server_restarts_empty() {
    const TTL: Duration = seconds(5);
    let server = Server::builder().start().unwrap();
    let [holding, waiting, idle] = [
        client(&server.url(), TTL).await,
        client(&server.url(), TTL).await,
        client(&server.url(), TTL).await,
    ];
    let names = names(5);
    let old = hold_all(&holding, &names).await;
    let (mut first_waiters, mut second_waiters) = (Vec::new(), Vec::new());
    for name in &names {
        first_waiters.push(enqueue_waiter(&server, &waiting, name, 1).await);
        second_waiters.push(enqueue_waiter(&server, &waiting, name, 2).await);
    }
    server.kill();
    let ends = deadlines(&old);
    sleep(millis(300)).await;
    for guard in &old {
        assert!(guard.check().is_ok(), "l5: only the connection is lost");
    }
    server.restart().unwrap();

    let bound = TTL / 3 + OPERATION_TIMEOUT;
    let mut new = Vec::new();
    for (first, second) in first_waiters.into_iter().zip(second_waiters) {
        // Either waiter may ask first, because the server has also lost the queue.
        let (mut first, mut second) = (first, second);
        let (guard, other) = within("a waiter is granted", bound, async {
            tokio::select! {
                guard = &mut first => (guard.unwrap(), second),
                guard = &mut second => (guard.unwrap(), first),
            }
        })
        .await;
        new.push((guard, other));
    }
    for (guard, end) in old.iter().zip(&ends) {
        let reason = within("the old holder learns of the loss", TTL, guard.lost()).await;
        assert!(
            matches!(
                reason,
                LossReason::Evicted | LossReason::Displaced | LossReason::Expired
            ),
            "{reason:?}"
        );
        assert_eq!(
            guard.valid_until(),
            *end,
            "k2: proved by a server that does not know the grant"
        );
    }
    for ((guard, other), old) in new.iter().zip(&old) {
        assert!(guard.token() > old.token(), "t1");
        assert!(guard.check().is_ok());
        assert!(!other.is_finished(), "x1: two new holders");
    }
    for (guard, other) in new {
        let _ = guard.release().await;
        let last = expect_granted("the other waiter is granted", OPERATION_TIMEOUT, other).await;
        assert!(last.token() > guard.token(), "t1");
        let _ = last.release().await;
    }
    for client in [&holding, &waiting, &idle] {
        connected(client).await;
        let guard = hold(client, &names[0]).await;
        guard.renew().await.unwrap();
        let _ = guard.release().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_flushed_server_loses_state_and_scripts() {
    const TTL: Duration = seconds(12);
    let server = Server::builder().start().unwrap();
    let holding = client(&server.url(), TTL).await;
    let waiting = client(&server.url(), TTL).await;
    let names = names(20);
    let old = hold_all(&holding, &names).await;
    let mut waiters = Vec::new();
    for name in &names {
        waiters.push(enqueue_waiter(&server, &waiting, name, 1).await);
    }
    server.command(&["FLUSHALL"]).unwrap();
    server.command(&["SCRIPT", "FLUSH"]).unwrap();
    // Both sides learn of the loss with their next request, which is due within a third of a TTL.
    // The bound adds some slack and is still before any deadline.
    let bound = TTL / 2;
    let flushed = tokio::time::Instant::now();
    for (old, waiter) in old.iter().zip(waiters) {
        let left = || bound.saturating_sub(flushed.elapsed());
        let new = expect_granted("the waiter is granted by its next request", left(), waiter).await;
        assert!(new.token() > old.token(), "t1");
        let reason = within("the old holder learns of the loss", left(), old.lost()).await;
        assert!(
            matches!(reason, LossReason::Evicted | LossReason::Displaced),
            "l2: {reason:?}"
        );
        assert!(new.check().is_ok());
        let _ = new.release().await;
    }
    wait_until("all queues are empty", OPERATION_TIMEOUT, || {
        names.iter().all(|name| queue_length(&server, name) == 0)
    })
    .await;
    assert_eq!((holding.live_attempts(), waiting.live_attempts()), (0, 0));
    for name in &names {
        let guard = hold(&holding, name).await;
        let _ = guard.release().await;
    }
}

/// A server that is away notifies nobody. A grant ends at its deadline (L1), and waiters keep
/// waiting.
#[tokio::test(flavor = "multi_thread")]
async fn l1_server_away_for_longer_than_a_ttl() {
    const TTL: Duration = seconds(2);
    let server = Server::builder().start().unwrap();
    let holding = client(&server.url(), TTL).await;
    let waiting = client(&server.url(), TTL).await;
    let names = names(5);
    let old = hold_all(&holding, &names).await;
    let mut waiters = Vec::new();
    for name in &names {
        waiters.push(enqueue_waiter(&server, &waiting, name, 1).await);
    }
    server.kill();
    for guard in &old {
        let reason = within("the deadline", TTL + seconds(1), guard.lost()).await;
        assert_eq!(reason, LossReason::Expired, "l1");
    }
    sleep(TTL).await;
    let error = holding
        .lock("new")
        .unwrap()
        .try_acquire()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    server.restart().unwrap();
    for (old, waiter) in old.iter().zip(waiters) {
        let new = expect_granted("a waiter is granted", OPERATION_TIMEOUT, waiter).await;
        assert!(new.token() > old.token(), "t1");
        let _ = new.release().await;
    }
    connected(&holding).await;
    let guard = hold(&holding, "new").await;
    let _ = guard.release().await;
}
