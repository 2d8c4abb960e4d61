//! A lease that expires while its owner is partitioned, and grants that are revoked, deleted or
//! evicted.

use tenure_core::{Release, loss::LossReason, request::Evicted};
use tenure_test_servers::{etcd::Server, wire::Proxy};

use crate::common::{
    WAIT_LIMIT, acquire_free, client, compact, etcdctl, expect_granted, millis, name, seconds,
    spawn_acquire, wait_for_waiters, wait_until, wait_until_free,
};

const TTL: std::time::Duration = seconds(2);

#[tokio::test(flavor = "multi_thread")]
async fn x3_l1_r1_owner_recovers_after_partition_past_its_ttl() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (owner, other) = (
        client(&proxy.url(), TTL).await,
        client(&server.url(), TTL).await,
    );
    for round in 0..3 {
        let guard = acquire_free(&owner, "a").await;
        let beside = acquire_free(&owner, "b").await;
        let waiter = spawn_acquire(&other, "a");
        wait_for_waiters(&other, "a", 1).await;
        proxy.hold_requests();
        proxy.hold_replies();
        let bound = other.capabilities().takeover.of(TTL, TTL) + WAIT_LIMIT;
        let next = expect_granted("the lease has expired", bound, waiter).await;
        assert!(guard.check().is_err(), "X1, round {round}");
        assert!(beside.check().is_err());
        assert!(next.token() > guard.token());
        proxy.release_requests();
        proxy.release_replies();
        let stale = guard.release().await;
        assert!(matches!(stale, Release::NotHeld(_)), "{stale:?}");
        assert!(
            next.check().is_ok(),
            "R1: a stale release freed the lock of another client"
        );
        assert_eq!(
            other
                .inspect(&name("a"))
                .await
                .unwrap()
                .holder
                .unwrap()
                .attempt,
            Some(next.attempt())
        );
        let _ = next.release().await;
        // The same client uses a new lease.
        let again = expect_granted(
            "the owner acquires again",
            WAIT_LIMIT,
            spawn_acquire(&owner, "a"),
        )
        .await;
        assert!(again.check().is_ok());
        let _ = again.release().await;
        wait_until_free(&other, "b", WAIT_LIMIT).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_l3_revoked_lease_loses_all_its_locks_at_once() {
    let server = Server::builder().start().unwrap();
    let client = client(&server.url(), seconds(60)).await;
    let (first, second) = (
        acquire_free(&client, "a").await,
        acquire_free(&client, "b").await,
    );
    let waited = spawn_acquire(&client, "a");
    wait_for_waiters(&client, "a", 1).await;
    let listed = etcdctl(&server.address(), &["lease", "list"]);
    for id in listed
        .lines()
        .filter(|line| line.len() == 16 && !line.contains(' '))
    {
        etcdctl(&server.address(), &["lease", "revoke", id]);
    }
    for guard in [&first, &second] {
        let reason = tokio::time::timeout(seconds(10), guard.lost())
            .await
            .unwrap();
        assert!(
            matches!(reason, LossReason::Evicted | LossReason::SessionLost),
            "{reason:?}"
        );
    }
    // The waiter continues with a new attempt under a new lease.
    let guard = expect_granted("the waiter continues", WAIT_LIMIT, waited).await;
    assert!(guard.check().is_ok());
    let _ = guard.release().await;
    let _ = acquire_free(&client, "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_i2_deletion_and_eviction_are_reported_at_once() {
    let server = Server::builder().start().unwrap();
    let (client, other) = (
        client(&server.url(), seconds(60)).await,
        client(&server.url(), seconds(60)).await,
    );
    for by_hand in [true, false] {
        let guard = acquire_free(&client, "a").await;
        let kept = acquire_free(&client, "kept").await;
        if by_hand {
            etcdctl(&server.address(), &["del", "--prefix", "default/a/"]);
        } else {
            let evicted = other.evict(guard.name(), guard.token()).await.unwrap();
            assert_eq!(evicted, Evicted::Evicted);
        }
        let reason = tokio::time::timeout(seconds(5), guard.lost())
            .await
            .unwrap();
        assert_eq!(reason, LossReason::Evicted);
        assert!(kept.check().is_ok());
        let _ = kept.release().await;
        wait_until("the attempt is forgotten", WAIT_LIMIT, || {
            client.live_attempts() == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_l2_compacted_history_hides_no_grant_and_no_loss() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (away, here) = (
        client(&proxy.url(), seconds(30)).await,
        client(&server.url(), seconds(30)).await,
    );
    let (first, lost) = (
        acquire_free(&here, "a").await,
        acquire_free(&away, "lost").await,
    );
    let kept = acquire_free(&away, "kept").await;
    let waiter = spawn_acquire(&away, "a");
    wait_for_waiters(&here, "a", 1).await;
    tokio::time::sleep(millis(100)).await;
    // While the client is disconnected, its waiter reaches the front and one of its locks is
    // deleted; no event reports either of them later.
    proxy.refuse(true).unwrap();
    proxy.cut().unwrap();
    let _ = first.release().await;
    etcdctl(&server.address(), &["del", "--prefix", "default/lost/"]);
    compact(&server.address());
    proxy.refuse(false).unwrap();
    let guard = expect_granted("the waiter learns of its grant", seconds(9), waiter).await;
    let reason = tokio::time::timeout(seconds(9), lost.lost()).await.unwrap();
    assert_eq!(reason, LossReason::Evicted);
    assert!(guard.check().is_ok() && kept.check().is_ok());
}
