//! The subscription is lost while a lock is waited for, and the word of the grant with it (W2).

use std::time::Duration;

use tenure_core::Client;
use tenure_test_servers::{redis::Server, wire::Proxy};
use tokio::task::JoinHandle;

use crate::common::{SOON, client, connected, granted, hold, millis, seconds, until, wait_in_line};

/// A waiter whose connection is in doubt reports by itself after an eighteenth of this, any waiter
/// after a third; and takes over after all of it.
const TTL: Duration = seconds(600);
/// Well before all of these.
const SOON_AFTER: Duration = seconds(10);

struct Gap {
    server: Server,
    proxy: Proxy,
    first: Client,
    second: Client,
}

impl Gap {
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
        wait_in_line(&self.server, &self.second, "a", 1).await
    }

    /// It has the lock soon, and hears of the next one by push again.
    async fn recovered(&self, waiter: JoinHandle<tenure_core::Guard>) {
        let guard = granted("it asks when it is back", SOON_AFTER, waiter).await;
        guard.renew().await.unwrap();
        let _ = guard.release().await;
        connected(&self.first).await;
        let holder = hold(&self.first, "a").await;
        let waiter = self.waiter().await;
        self.proxy.hold_requests();
        let _ = holder.release().await;
        let guard = granted("it is told by push", SOON_AFTER, waiter).await;
        self.proxy.release_requests();
        let _ = guard.release().await;
        assert_eq!(self.second.live_attempts(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_release_while_the_subscriber_is_killed_and_kept_away() {
    let gap = Gap::start().await;
    let holder = hold(&gap.first, "a").await;
    let waiter = gap.waiter().await;
    gap.proxy.refuse(true).unwrap();
    let killed = gap
        .server
        .text(&["CLIENT", "KILL", "TYPE", "pubsub"])
        .unwrap();
    assert_eq!(killed, "2", "one subscription for each client");
    until("its connection is gone", SOON, || {
        gap.proxy.connections_open() == 0
    })
    .await;
    connected(&gap.first).await;
    let _ = holder.release().await;
    assert!(!waiter.is_finished());
    gap.proxy.refuse(false).unwrap();
    gap.recovered(waiter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_release_at_the_moment_that_the_subscriber_is_killed() {
    let gap = Gap::start().await;
    for round in 0..10 {
        let holder = hold(&gap.first, "a").await;
        let waiter = gap.waiter().await;
        let release = tokio::spawn(async move { holder.release().await });
        tokio::time::sleep(Duration::from_micros(round * 100)).await;
        gap.proxy.cut().unwrap();
        let guard = granted("it asks when it is back", SOON_AFTER, waiter).await;
        let _ = release.await.unwrap();
        connected(&gap.second).await;
        let _ = guard.release().await;
    }
    let holder = hold(&gap.first, "a").await;
    let waiter = gap.waiter().await;
    let _ = holder.release().await;
    gap.recovered(waiter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_push_that_is_lost_with_its_connection() {
    let gap = Gap::start().await;
    let holder = hold(&gap.first, "a").await;
    let waiter = gap.waiter().await;
    gap.proxy.hold_replies();
    let _ = holder.release().await;
    tokio::time::sleep(millis(100)).await;
    assert!(!waiter.is_finished());
    gap.proxy.cut().unwrap();
    gap.proxy.release_replies();
    gap.recovered(waiter).await;
}
