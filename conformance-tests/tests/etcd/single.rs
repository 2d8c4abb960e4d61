//! The suite on one etcd server.
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
use tenure_test_servers::etcd::{Server, ServerBuilder};

fn start() -> Running<ServerBuilder> {
    let server = Server::builder().start().expect("an etcd server");
    Running::new(Access::new(server.url(), None, &[]), server)
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
        ("servers::slow_server_is_left", "there is one server"),
        ("servers::failover", "there is one server"),
        ("servers::partition", "there is one server"),
    ];
    tenure_conformance::main(Deployment::<Etcd>::new("etcd", start, Some(start), ignored))
}
