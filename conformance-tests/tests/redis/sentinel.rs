//! The suite on a Redis master and its replica under a sentinel. The replica acknowledges every grant.
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
use tenure_test_servers::redis::{Sentinel, SentinelBuilder, ServerBuilder};

fn start_with(builder: SentinelBuilder) -> Running<ServerBuilder> {
    let group = builder.start().expect("Redis servers and a sentinel");
    let access = Access::new(group.url(), None, &[("min_replicas", "1")]);
    Running::new(access, group)
}

fn start() -> Running<ServerBuilder> {
    start_with(Sentinel::builder())
}

/// After a failover, a replica is left to acknowledge grants.
fn start_dedicated() -> Running<ServerBuilder> {
    start_with(Sentinel::builder().replicas(2).links())
}

fn main() -> ExitCode {
    let ignored = &[
        ("secrets::show_nowhere", "no password is configured"),
        (
            "faults::*",
            "the servers tell clients their addresses, so that connections bypass a proxy",
        ),
        (
            "servers::slow_server_is_left",
            "only the master serves clients",
        ),
        ("servers::stopped_past_the_ttl", "tested on a single server"),
        ("servers::killed_past_the_ttl", "tested on a single server"),
        ("servers::killed_for_a_moment", "tested on a single server"),
    ];
    tenure_conformance::main(Deployment::<Redis>::new(
        "redis under a sentinel",
        start,
        Some(start_dedicated),
        ignored,
    ))
}
