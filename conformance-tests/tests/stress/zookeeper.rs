//! Workers compete for locks on three servers, which are killed, stopped, restarted and cut off
//! from each other; the history must have no violation.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod faulted_run;
mod member_faults;
mod verdict;

use std::{sync::Arc, time::Duration};

use tenure_core::{
    registry::Factory,
    settings::{RawOptions, Settings, StoreUrl, Value},
};
use tenure_test_servers::zookeeper::{Cluster, Server};
use tenure_zookeeper::ZooKeeperFactory;

const TTL: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_violation_while_members_are_killed_and_stopped() {
    // A killed server leaves its acknowledged writes to the system; without syncs, a busy disk does not slow
    // the test.
    let members = Server::builder().force_sync(false);
    let cluster = Arc::new(Cluster::builder().members(members).links().start().unwrap());
    let url = StoreUrl::parse(&cluster.url()).unwrap();
    // The tick of the test servers.
    let tick = RawOptions::new().with("tick", Value::from("100ms"), "the test");
    let settings = Settings::new(url).with_options(tick);
    let connectors = (0..3)
        .map(|_| ZooKeeperFactory::new().open(&settings).unwrap())
        .collect();
    let faulted = Arc::clone(&cluster);
    faulted_run::run("stress-zookeeper", connectors, TTL, move |recorder| {
        member_faults::inject(&*faulted, recorder, TTL, 6);
    })
    .await;
}
