//! The subscription is lost while a lock is waited for, and the word of the grant with it (W2).

use std::time::Duration;

use tenure_core::Client;
use tenure_test_servers::{redis::Server, wire::Proxy};
use tokio::task::JoinHandle;

use crate::common::{
    OPERATION_TIMEOUT, client, connected, enqueue_waiter, expect_granted, hold, millis, seconds,
    wait_until,
};

/// A waiter whose connection is in doubt reports by itself after an eighteenth of this, any waiter
/// after a third; and takes over after all of it.
const TTL: Duration = seconds(600);
/// Well before all of these.
const PUSH_TIMEOUT: Duration = seconds(10);

struct SubscriptionTest {
    server: Server,
    proxy: Proxy,
    first: Client,
    second: Client,
}

impl SubscriptionTest {
    async fn start() -> Self {
        let server = Server::builder().start().unwrap();
        let proxy = Proxy::start(server.address()).unwrap();
        Self {
            first: client(&server.url(), TTL).await,
            second: client(&proxy.url(), TTL).await,
            server,
            proxy,
        }
    }

    async fn waiter(&self) -> JoinHandle<tenure_core::Guard> {
        enqueue_waiter(&self.server, &self.second, "a", 1).await
    }

    /// It has the lock soon, and hears of the next one by push again.
    async fn assert_recovers(&self, waiter: JoinHandle<tenure_core::Guard>) {
        let guard = expect_granted("it asks when it is back", PUSH_TIMEOUT, waiter).await;
        guard.renew().await.unwrap();
        let _ = guard.release().await;
        connected(&self.first).await;
        let holder = hold(&self.first, "a").await;
        let waiter = self.waiter().await;
        self.proxy.hold_requests();
        let _ = holder.release().await;
        let guard = expect_granted("it is told by push", PUSH_TIMEOUT, waiter).await;
        self.proxy.release_requests();
        let _ = guard.release().await;
        assert_eq!(self.second.live_attempts(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_release_while_the_subscriber_is_killed_and_kept_away() {
    let test = SubscriptionTest::start().await;
    let holder = hold(&test.first, "a").await;
    let waiter = test.waiter().await;
    test.proxy.refuse(true).unwrap();
    let killed = test
        .server
        .text(&["CLIENT", "KILL", "TYPE", "pubsub"])
        .unwrap();
    assert_eq!(killed, "2", "one subscription for each client");
    wait_until("its connection is gone", OPERATION_TIMEOUT, || {
        test.proxy.connections_open() == 0
    })
    .await;
    connected(&test.first).await;
    let _ = holder.release().await;
    assert!(!waiter.is_finished());
    test.proxy.refuse(false).unwrap();
    test.assert_recovers(waiter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_release_at_the_moment_that_the_subscriber_is_killed() {
    let test = SubscriptionTest::start().await;
    for round in 0..10 {
        let holder = hold(&test.first, "a").await;
        let waiter = test.waiter().await;
        let release = tokio::spawn(async move { holder.release().await });
        tokio::time::sleep(Duration::from_micros(round * 100)).await;
        test.proxy.cut().unwrap();
        let guard = expect_granted("it asks when it is back", PUSH_TIMEOUT, waiter).await;
        let _ = release.await.unwrap();
        connected(&test.second).await;
        let _ = guard.release().await;
    }
    let holder = hold(&test.first, "a").await;
    let waiter = test.waiter().await;
    let _ = holder.release().await;
    test.assert_recovers(waiter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_push_that_is_lost_with_its_connection() {
    let test = SubscriptionTest::start().await;
    let holder = hold(&test.first, "a").await;
    let waiter = test.waiter().await;
    test.proxy.hold_replies();
    let _ = holder.release().await;
    tokio::time::sleep(millis(100)).await;
    assert!(!waiter.is_finished());
    test.proxy.cut().unwrap();
    test.proxy.release_replies();
    test.assert_recovers(waiter).await;
}
