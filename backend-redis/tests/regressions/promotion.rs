//! Grants that a promotion by an operator loses. All servers and clients reach each other.

use std::{sync::Arc, thread};

use tenure_test_servers::{
    Error,
    redis::{Sentinel, Server},
};

use crate::{
    common::seconds,
    losses::{self, Losses, Settings, TTL},
};

#[derive(Clone, Copy, Debug)]
enum Promotion {
    /// `SENTINEL FAILOVER`.
    BySentinel,
    /// `REPLICAOF` on a replica, and a second later on the old master. The sentinels are not asked.
    ByReplicaof,
}

fn promote_by_replicaof(group: &Sentinel) -> Result<&Server, Error> {
    let old = group.master()?;
    let new = group.replicas()?[0];
    new.command(&["REPLICAOF", "NO", "ONE"])?;
    thread::sleep(seconds(1));
    let port = new.port().to_string();
    old.command(&["REPLICAOF", "127.0.0.1", &port])?;
    // The sentinels take a master that is a replica for failed, and elect one of the others.
    group.wait_for_new_master(old.port())
}

async fn measure(promotion: Promotion, min_replicas: u32) -> Losses {
    let group = Arc::new(Sentinel::builder().replicas(2).start().unwrap());
    let promote = move |group: &Sentinel| {
        match promotion {
            Promotion::BySentinel => group.failover(),
            Promotion::ByReplicaof => promote_by_replicaof(group),
        }
        .unwrap();
    };
    let ttl = match promotion {
        Promotion::BySentinel => TTL,
        // The group has no master for more than three seconds.
        Promotion::ByReplicaof => TTL * 3,
    };
    let settings = Settings { ttl, min_replicas };
    let (what, url) = (format!("{promotion:?}"), group.url());
    losses::measure(&what, &group, &url, settings, promote, |_| ()).await
}

/// The old master proves grants until the sentinels make it a replica.
#[tokio::test(flavor = "multi_thread")]
async fn t1_promotion_by_sentinel_without_acknowledgement() {
    let losses = measure(Promotion::BySentinel, 0).await;
    losses.are_short();
}

/// The other replica follows the old master for a while, and acknowledges what the new master never sees.
#[tokio::test(flavor = "multi_thread")]
async fn t1_promotion_by_sentinel_with_one_of_two_replicas_acknowledging() {
    let losses = measure(Promotion::BySentinel, 1).await;
    losses.are_short();
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_promotion_by_sentinel_with_all_replicas_acknowledging() {
    let losses = measure(Promotion::BySentinel, 2).await;
    losses.are_none();
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_promotion_by_replicaof_without_acknowledgement() {
    let losses = measure(Promotion::ByReplicaof, 0).await;
    losses.are_short();
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_promotion_by_replicaof_with_one_of_two_replicas_acknowledging() {
    let losses = measure(Promotion::ByReplicaof, 1).await;
    losses.are_short();
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_promotion_by_replicaof_with_all_replicas_acknowledging() {
    let losses = measure(Promotion::ByReplicaof, 2).await;
    losses.are_none();
}
