//! Grants that are lost when the master fails: it is killed, or cut off.

use std::sync::Arc;

use tenure_test_servers::{redis::Sentinel, wire::Proxy};

use crate::losses::{self, Losses, OBSERVATION, Settings, TTL};

#[derive(Clone, Copy, Debug)]
enum Cause {
    /// The master is killed.
    Kill,
    /// The master is cut off from the replicas and the sentinel. Its clients reach the sentinel.
    Partition,
    /// The same, and its clients do not reach the sentinel either.
    PartitionWithClients,
}

async fn measure(cause: Cause, min_replicas: u32) -> Losses {
    let group = Sentinel::builder().replicas(2).links().start().unwrap();
    let group = Arc::new(group);
    // The holder reaches the sentinel through the proxy.
    let proxy = Arc::new(Proxy::start(group.sentinels()[0].address()).unwrap());
    let url = format!("redis+sentinel://{}/{}", proxy.address(), group.name());
    let path = Arc::clone(&proxy);
    let promote = move |group: &Sentinel| {
        if matches!(cause, Cause::PartitionWithClients) {
            path.hold_requests();
            path.hold_replies();
        }
        match cause {
            Cause::Kill => group.kill_master(),
            Cause::Partition | Cause::PartitionWithClients => group.isolate_master(),
        }
        .unwrap();
    };
    let heal = |group: &Sentinel| {
        group.links().unwrap().heal();
        proxy.release_requests();
        proxy.release_replies();
    };
    let what = format!("{cause:?}");
    losses::measure(
        &what,
        &group,
        &url,
        Settings::new(min_replicas),
        promote,
        heal,
    )
    .await
}

/// Without acknowledgements, the old master proves grants until the client learns of the new one.
#[tokio::test(flavor = "multi_thread")]
async fn t1_partitioned_master_without_acknowledgement() {
    let losses = measure(Cause::Partition, 0).await;
    assert!(losses.doubled > 0, "the partition had no effect");
    losses.are_short();
}

/// The client learns of the new master when the partition ends.
#[tokio::test(flavor = "multi_thread")]
async fn t1_master_partitioned_with_its_clients_without_acknowledgement() {
    let losses = measure(Cause::PartitionWithClients, 0).await;
    assert!(losses.longest > TTL, "the partition had no effect");
    losses.end_before(OBSERVATION + TTL * 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_master_partitioned_with_its_clients_with_acknowledging_replicas() {
    let losses = measure(Cause::PartitionWithClients, 1).await;
    losses.are_few();
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_partitioned_master_with_acknowledging_replicas() {
    let losses = measure(Cause::Partition, 1).await;
    losses.are_few();
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_killed_master_without_acknowledgement() {
    let losses = measure(Cause::Kill, 0).await;
    losses.are_short();
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_killed_master_with_acknowledging_replicas() {
    let losses = measure(Cause::Kill, 1).await;
    losses.are_few();
}
