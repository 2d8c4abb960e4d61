//! A client that is partitioned from the server it uses, while the other servers keep running.

use tenure_core::Release;
use tenure_test_servers::etcd::Cluster;
use tokio::time::{Instant, sleep};

use crate::common::{
    WAIT_LIMIT, acquire_free, client, expect_granted, millis, proxies, proxy_in_use, seconds,
    spawn_acquire, wait_for_waiters,
};

#[tokio::test(flavor = "multi_thread")]
async fn l5_w2_client_fails_over_before_a_grant_is_lost() {
    let cluster = Cluster::builder().start().unwrap();
    let (proxies, url) = proxies(&cluster);
    let other = client(&cluster.url(), seconds(30)).await;
    let blocked = acquire_free(&other, "waited for").await;
    // A cut connection reports its end; a held one does not.
    for held in [false, true, true] {
        for proxy in &proxies {
            proxy.reset();
        }
        let client = client(&url, seconds(3)).await;
        let guard = acquire_free(&client, "held").await;
        let waiter = spawn_acquire(&client, "waited for");
        wait_for_waiters(&other, "waited for", 1).await;
        let proxy = &proxies[proxy_in_use(&proxies)];
        if held {
            proxy.hold_requests();
            proxy.hold_replies();
        } else {
            proxy.refuse(true).unwrap();
            proxy.cut().unwrap();
        }
        let until = Instant::now() + seconds(7);
        while Instant::now() < until {
            assert!(
                guard.check().is_ok(),
                "L5: lost while two of three servers were reachable"
            );
            sleep(millis(10)).await;
        }
        let released = guard.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
        waiter.abort();
        let _ = waiter.await;
        client.shutdown(seconds(5)).await;
        proxy.cut().unwrap();
        proxy.release_requests();
        proxy.release_replies();
        proxy.refuse(false).unwrap();
        wait_for_waiters(&other, "waited for", 0).await;
    }
    drop(blocked);
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_waiter_is_granted_by_another_server() {
    let cluster = Cluster::builder().start().unwrap();
    let (proxies, url) = proxies(&cluster);
    // A third of this TTL, after which the waiter reports in any case, is longer than the test
    // waits.
    let (ttl, soon) = (seconds(90), seconds(15));
    let other = client(&cluster.url(), ttl).await;
    let guard = acquire_free(&other, "a").await;
    let client = client(&url, ttl).await;
    for proxy in &proxies {
        proxy.reset();
    }
    let waiter = spawn_acquire(&client, "a");
    wait_for_waiters(&other, "a", 1).await;
    let proxy = &proxies[proxy_in_use(&proxies)];
    proxy.hold_requests();
    proxy.hold_replies();
    let released = guard.release().await;
    assert!(matches!(released, Release::Released));
    let next = expect_granted("the server of the waiter does not answer", soon, waiter).await;
    assert!(next.check().is_ok());
    let _ = tokio::time::timeout(WAIT_LIMIT, next.release()).await;
}
