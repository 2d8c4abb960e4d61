//! The suite on three masters of a Redis cluster.
#![expect(
    clippy::expect_used,
    reason = "a missing server fails the run with a hint how to install it"
)]

#[path = "../deployment/mod.rs"]
mod deployment;
mod operator;

use std::process::ExitCode;

use deployment::{Access, Deployment, Running};
use operator::Redis;
use tenure_test_servers::redis::{Cluster, ServerBuilder};

fn start() -> Running<ServerBuilder> {
    let cluster = Cluster::builder().start().expect("a Redis cluster");
    Running::new(Access::new(cluster.url(), None, &[]), cluster)
}

fn main() -> ExitCode {
    let ignored = &[
        ("secrets::show_nowhere", "no password is configured"),
        (
            "faults::*",
            "the servers tell clients their addresses, so that connections bypass a proxy",
        ),
        ("servers::*", "tested on a single server"),
    ];
    tenure_conformance::main(Deployment::<Redis>::new(
        "redis cluster",
        start,
        None,
        ignored,
    ))
}
