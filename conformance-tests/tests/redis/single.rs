//! The suite on one Redis server.
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
use tenure_test_servers::redis::{Server, ServerBuilder};

fn start() -> Running<ServerBuilder> {
    let server = Server::builder().start().expect("a Redis server");
    Running::new(Access::new(server.url(), None, &[]), server)
}

fn main() -> ExitCode {
    let ignored = &[
        ("secrets::show_nowhere", "no password is configured"),
        ("servers::slow_server_is_left", "there is one server"),
        ("servers::failover", "there is one server"),
        ("servers::partition", "there is one server"),
    ];
    tenure_conformance::main(Deployment::<Redis>::new(
        "redis",
        start,
        Some(start),
        ignored,
    ))
}
