//! Tests of etcd servers and of the proxy.

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

use etcd_client::{Client, ConnectOptions};
use tenure_core::clock::{Clock, SystemClock};

/// The time limit for an expected event.
const BOUND: Duration = Duration::from_secs(30);
/// The time in which no event must occur; an event would occur within a few milliseconds.
const QUIET: Duration = Duration::from_millis(200);

async fn connect(address: String) -> Client {
    connect_with(address, ConnectOptions::new()).await.unwrap()
}

async fn connect_with(
    address: String,
    options: ConnectOptions,
) -> Result<Client, etcd_client::Error> {
    let options = options.with_timeout(BOUND).with_connect_timeout(BOUND);
    Client::connect([address], Some(options)).await
}

async fn get(client: &mut Client, key: &str) -> Option<String> {
    let answer = client.get(key, None).await.unwrap();
    let pair = answer.kvs().first()?;
    Some(pair.value_str().unwrap().to_owned())
}

/// Polls until the condition holds.
async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = SystemClock.now();
    while !condition().await {
        assert!(SystemClock.now().since(begun) < BOUND, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
