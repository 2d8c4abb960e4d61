//! The suite on one ZooKeeper server.
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
use tenure_test_servers::zookeeper::ServerBuilder;

fn start() -> Running<ServerBuilder> {
    let server = settings().start().expect("a ZooKeeper server");
    Running::new(Access::new(server.url(), None, OPTIONS), server)
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
        ("servers::slow_server_is_left", "there is one server"),
        ("servers::failover", "there is one server"),
        ("servers::partition", "there is one server"),
    ];
    tenure_conformance::main(Deployment::<ZooKeeper>::new(
        "zookeeper",
        start,
        Some(start),
        ignored,
    ))
}
