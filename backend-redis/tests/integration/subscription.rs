//! The subscription is lost while a client waits for a lock, and the message about the grant with
//! it (W2).

use std::time::Duration;

use tenure_core::Client;
use tenure_test_servers::{redis::Server, wire::Proxy};
use tokio::task::JoinHandle;

use crate::common::{
    OPERATION_TIMEOUT, client, connected, enqueue_waiter, expect_granted, hold, millis, seconds,
    wait_until,
};

/// A waiter whose connection is suspect reports after an eighteenth of this time, any other waiter
/// after a third, and a takeover happens after all of it.
const TTL: Duration = seconds(600);
/// Far shorter than all of these.
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

    /// Asserts that the waiter is granted the lock soon, and that the next grant arrives by push
    /// again.
    async fn assert_recovers(&self, waiter: JoinHandle<tenure_core::Guard>) {
        let guard =
            expect_granted("the waiter asks after reconnecting", PUSH_TIMEOUT, waiter).await;
        guard.renew().await.unwrap();
        let _ = guard.release().await;
        connected(&self.first).await;
        let holder = hold(&self.first, "a").await;
        let waiter = self.waiter().await;
        self.proxy.hold_requests();
        let _ = holder.release().await;
        let guard = expect_granted("the grant arrives by push", PUSH_TIMEOUT, waiter).await;
        self.proxy.release_requests();
        let _ = guard.release().await;
        assert_eq!(self.second.live_attempts(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_release_while_the_subscriber_is_kept_disconnected() {
    let test = SubscriptionTest::start().await;
    let holder = hold(&test.first, "a").await;
    let waiter = test.waiter().await;
    test.proxy.refuse(true).unwrap();
    let killed = test
        .server
        .text(&["CLIENT", "KILL", "TYPE", "pubsub"])
        .unwrap();
    assert_eq!(killed, "2", "one subscription for each client");
    wait_until("the connection is closed", OPERATION_TIMEOUT, || {
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
async fn w2_release_while_the_subscriber_is_being_killed() {
    let test = SubscriptionTest::start().await;
    for round in 0..10 {
        let holder = hold(&test.first, "a").await;
        let waiter = test.waiter().await;
        let release = tokio::spawn(async move { holder.release().await });
        tokio::time::sleep(Duration::from_micros(round * 100)).await;
        test.proxy.cut().unwrap();
        let guard =
            expect_granted("the waiter asks after reconnecting", PUSH_TIMEOUT, waiter).await;
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
async fn w2_push_lost_with_its_connection() {
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
