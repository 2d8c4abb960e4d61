//! Replies that are lost.

use tenure_core::{Acquisition, Client, Release, error::ErrorKind};
use tenure_test_servers::{etcd::Server, wire::Proxy};

use crate::common::{
    WAIT_LIMIT, acquire_free, client, etcdctl, expect_granted, millis, seconds, spawn_acquire,
    wait_for_waiters, wait_until, wait_until_free,
};

const TTL: std::time::Duration = seconds(3);

#[tokio::test(flavor = "multi_thread")]
async fn a3_a4_enqueue_with_lost_reply_leaves_no_entry() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (client, other) = (
        client(&proxy.url(), TTL).await,
        client(&server.url(), TTL).await,
    );
    let kept = acquire_free(&client, "kept").await;
    for taken in [false, true] {
        for round in 0..5 {
            let holder = if taken {
                Some(acquire_free(&other, "a").await)
            } else {
                None
            };
            assert!(
                acquire_with_lost_reply(&client, &other, &proxy, taken).await,
                "A3, round {round}: no reply to an enqueue was lost"
            );
            wait_for_waiters(&other, "a", 0).await;
            if let Some(holder) = holder {
                assert!(holder.check().is_ok());
                let _ = holder.release().await;
            }
            wait_until_free(&other, "a", WAIT_LIMIT).await;
            assert!(
                kept.check().is_ok(),
                "L5: a broken connection ended a grant"
            );
        }
    }
    assert!(proxy.replies_dropped() >= 10);
}

/// Acquires until an enqueue is applied but not answered. Returns whether there was one. A try
/// reports it as unknown; a wait for a taken lock goes on with another attempt.
async fn acquire_with_lost_reply(
    client: &Client,
    other: &Client,
    proxy: &Proxy,
    taken: bool,
) -> bool {
    for _ in 0..10 {
        let lost = proxy.replies_dropped();
        proxy.drop_reply_of_and_cut("Txn");
        let lock = client.lock("a").unwrap();
        let outcome = if taken {
            lock.acquire_within(seconds(1)).await
        } else {
            lock.try_acquire().await
        };
        match outcome {
            Ok(Acquisition::Busy(_)) if taken && proxy.replies_dropped() > lost => return true,
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => return true,
            // The next reply to a transaction was that to a renewal and not that to the enqueue.
            Ok(Acquisition::Acquired(guard)) => drop(guard.release().await),
            Ok(_) | Err(_) => {}
        }
        wait_for_waiters(other, "a", 0).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_removal_with_lost_reply_is_released() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (client, other) = (
        client(&proxy.url(), TTL).await,
        client(&server.url(), TTL).await,
    );
    for _ in 0..5 {
        let guard = acquire_free(&client, "a").await;
        let waiter = spawn_acquire(&other, "a");
        wait_for_waiters(&other, "a", 1).await;
        proxy.drop_reply_of_and_cut("Txn");
        let mut released = guard.release().await;
        let dropped = proxy.replies_dropped();
        wait_until("a reply is dropped", WAIT_LIMIT, || dropped > 0).await;
        if matches!(released, Release::Unknown(_)) {
            released = guard.release().await;
        }
        assert!(matches!(released, Release::Released), "{released:?}");
        let next = expect_granted("R2", WAIT_LIMIT, waiter).await;
        let _ = next.release().await;
    }
}

/// A removal whose reply was lost is repeated; the key is then used again.
#[tokio::test(flavor = "multi_thread")]
async fn r1_repeated_removal_spares_the_next_owner_of_the_key() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), seconds(60)).await;
    let key = || {
        let found = ["get", "--prefix", "--keys-only", "default/a/"];
        etcdctl(&server.address(), &found).trim().to_owned()
    };
    let first = acquire_free(&client, "a").await;
    let used = key();
    proxy.drop_reply_of_and_cut("Txn");
    let mut released = first.release().await;
    let dropped = || proxy.replies_dropped() > 0;
    wait_until("a reply is dropped", WAIT_LIMIT, dropped).await;
    while matches!(released, Release::Unknown(_)) {
        released = first.release().await;
    }
    assert!(matches!(released, Release::Released), "{released:?}");
    let second = acquire_free(&client, "a").await;
    assert_eq!(key(), used, "the key is used again");
    let repeated = first.release().await;
    assert!(!matches!(repeated, Release::Unknown(_)), "{repeated:?}");
    assert_eq!(key(), used);
    assert!(second.check().is_ok());
    let _ = second.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_waiter_repeats_an_unanswered_position_request() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    // The waiter asks again by itself, not with its next report.
    let ttl = seconds(60);
    let (client, other) = (
        client(&proxy.url(), ttl).await,
        client(&server.url(), ttl).await,
    );
    for _ in 0..5 {
        let guard = acquire_free(&other, "a").await;
        let second = spawn_acquire(&other, "a");
        wait_for_waiters(&other, "a", 1).await;
        let waiter = spawn_acquire(&client, "a");
        wait_for_waiters(&other, "a", 2).await;
        // The reply to the enqueue may arrive after the other client sees the entry.
        tokio::time::sleep(millis(100)).await;
        let before = proxy.replies_dropped();
        proxy.drop_reply_of_and_cut("Txn");
        let _ = guard.release().await;
        let second = expect_granted("the second", WAIT_LIMIT, second).await;
        let dropped = || proxy.replies_dropped() > before;
        wait_until(
            "the position is read, and no reply comes",
            WAIT_LIMIT,
            dropped,
        )
        .await;
        let _ = second.release().await;
        let next = expect_granted("the waiter asks again", seconds(15), waiter).await;
        assert!(next.check().is_ok());
        let _ = next.release().await;
    }
    assert!(proxy.replies_dropped() >= 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_d2_lost_keep_alive_replies_end_no_grant() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), TTL).await;
    let guard = acquire_free(&client, "a").await;
    for name in ["LeaseKeepAlive", "LeaseKeepAlive.message", "Txn"] {
        let (before, until_now) = (proxy.replies_dropped(), guard.valid_until());
        proxy.drop_reply_of_and_cut(name);
        wait_until("a reply is dropped", WAIT_LIMIT, || {
            proxy.replies_dropped() > before
        })
        .await;
        wait_until("the grant is renewed all the same", WAIT_LIMIT, || {
            assert!(guard.check().is_ok(), "L5: {name}");
            guard.valid_until() > until_now
        })
        .await;
    }
}
