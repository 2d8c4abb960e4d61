//! Tests of ZooKeeper servers and of the proxy.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, which fail by panicking"
)]

mod groups;
mod lifecycle;
mod partitions;
mod security;
mod wire;
mod wire_faults;

use std::time::Duration;

use tenure_core::clock::{Clock, SystemClock};
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error};

/// The time limit for an expected event.
const BOUND: Duration = Duration::from_secs(30);
/// The time in which no event must occur; an event would occur within a few milliseconds.
const QUIET: Duration = Duration::from_millis(200);

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());

async fn connect(address: &str) -> Client {
    tokio::time::timeout(BOUND, Client::connect(address))
        .await
        .unwrap()
        .unwrap()
}

async fn create(client: &Client, path: &str) -> Result<(), Error> {
    client.create(path, b"value", &PERSISTENT).await.map(|_| ())
}

async fn exists(client: &Client, path: &str) -> bool {
    client.check_stat(path).await.unwrap().is_some()
}

/// Polls until the condition holds.
async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = SystemClock.now();
    while !condition().await {
        assert!(SystemClock.now().since(begun) < BOUND, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
