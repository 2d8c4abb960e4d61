//! What the ZooKeeper servers of this crate do when they are started, asked, broken and ended.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, which fail by panicking"
)]

mod groups;
mod lifecycle;
mod security;
mod wire;
mod wire_faults;

use std::time::Duration;

use tenure_core::clock::{Clock, SystemClock};
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error};

/// How long something may take that has to happen.
const BOUND: Duration = Duration::from_secs(30);
/// How long something is watched that must not happen; it would within a few milliseconds.
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

/// Asks until the condition holds.
async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = SystemClock.now();
    while !condition().await {
        assert!(SystemClock.now().since(begun) < BOUND, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
