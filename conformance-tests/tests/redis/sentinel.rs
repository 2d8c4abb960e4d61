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
use tenure_test_servers::redis::{Sentinel, ServerBuilder};

fn start() -> Running<ServerBuilder> {
    let group = Sentinel::builder().start();
    let group = group.expect("Redis servers and a sentinel");
    let access = Access::new(group.url(), None, &[("min_replicas", "1")]);
    Running::new(access, group)
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
        "redis under a sentinel",
        start,
        None,
        ignored,
    ))
}
