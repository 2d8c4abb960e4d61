//! The suite on a cluster of three ZooKeeper servers, below a chroot.
#![expect(
    clippy::expect_used,
    reason = "a missing server fails the run with a hint how to install it"
)]

#[path = "../deployment/mod.rs"]
mod deployment;
mod operator;

use std::process::ExitCode;

use deployment::{Access, Deployment, Running};
use operator::{OPTIONS, ZooKeeper, settings};
use tenure_test_servers::zookeeper::{Cluster, ClusterBuilder, ServerBuilder};

/// In ticks of 100 ms, twice the time for which a case stops the servers. Servers that all stop for longer
/// than the limit may not serve again, see `Cluster::stands_still`; no client can repair that. Members that
/// are cut off from each other notice it after this time.
const SYNC_LIMIT: &str = "80";
const ROOT: &str = "/app/locks";

fn start_with(builder: ClusterBuilder) -> Running<ServerBuilder> {
    let cluster = builder.start().expect("a ZooKeeper cluster");
    let url = format!("{}{ROOT}", cluster.url());
    Running::new(Access::new(url, None, OPTIONS), cluster)
}

fn start() -> Running<ServerBuilder> {
    start_with(Cluster::builder().members(settings()))
}

fn start_dedicated() -> Running<ServerBuilder> {
    let members = settings().config("syncLimit", SYNC_LIMIT);
    start_with(Cluster::builder().members(members).links())
}

fn main() -> ExitCode {
    let ignored = &[
        (
            "exclusion::silent_holder_is_succeeded",
            "the locks of a client share a session",
        ),
        (
            "waiting::dead_waiter_delays_patient_ones_no_more",
            "the locks of a client share a session",
        ),
        (
            "capabilities::requirements_are_checked",
            "the backend has every capability",
        ),
        ("secrets::show_nowhere", "no password is configured"),
    ];
    tenure_conformance::main(Deployment::<ZooKeeper>::new(
        "zookeeper cluster",
        start,
        Some(start_dedicated),
        ignored,
    ))
}
