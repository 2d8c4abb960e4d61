//! Workers compete for locks on three servers, which are killed, stopped, restarted and cut off
//! from each other; the history must have no violation.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod faulted_run;
mod member_faults;
mod verdict;

use std::{sync::Arc, time::Duration};

use tenure_core::{
    registry::Factory,
    settings::{Settings, StoreUrl},
};
use tenure_etcd::EtcdFactory;
use tenure_test_servers::etcd::Cluster;

const TTL: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_violation_while_members_are_killed_and_stopped() {
    let cluster = Arc::new(Cluster::builder().links().start().unwrap());
    let url = StoreUrl::parse(&cluster.url()).unwrap();
    let settings = Settings::new(url);
    let connectors = (0..3)
        .map(|_| EtcdFactory::new().open(&settings).unwrap())
        .collect();
    let faulted = Arc::clone(&cluster);
    faulted_run::run("stress-etcd", connectors, TTL, move |recorder| {
        member_faults::inject(&*faulted, recorder, TTL, 6);
    })
    .await;
}
