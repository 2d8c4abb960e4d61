//! The suite on a cluster of three etcd servers.
#![expect(
    clippy::expect_used,
    reason = "a missing server fails the run with a hint how to install it"
)]

#[path = "../deployment/mod.rs"]
mod deployment;
mod operator;

use std::process::ExitCode;

use deployment::{Access, Deployment, Running};
use operator::Etcd;
use tenure_test_servers::etcd::{Cluster, ClusterBuilder, ServerBuilder};

fn start_with(builder: ClusterBuilder) -> Running<ServerBuilder> {
    let cluster = builder.start().expect("an etcd cluster");
    Running::new(Access::new(cluster.url(), None, &[]), cluster)
}

fn start() -> Running<ServerBuilder> {
    start_with(Cluster::builder())
}

fn start_dedicated() -> Running<ServerBuilder> {
    start_with(Cluster::builder().links())
}

fn main() -> ExitCode {
    let ignored = &[
        (
            "exclusion::silent_holder_is_succeeded",
            "the locks of a client share a lease",
        ),
        (
            "waiting::dead_waiter_delays_patient_ones_no_more",
            "the locks of a client share a lease",
        ),
        (
            "capabilities::requirements_are_checked",
            "the backend has every capability",
        ),
        ("secrets::show_nowhere", "no password is configured"),
    ];
    tenure_conformance::main(Deployment::<Etcd>::new(
        "etcd cluster",
        start,
        Some(start_dedicated),
        ignored,
    ))
}
