//! The suite on one Redis server with TLS and client certificates, as a user with the documented rights only.
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

const USER: &str = "locker";
const PASSWORD: &str = "canary-7f3a";

/// The documented rights: the line of docs/backends/redis.md that begins with `ACL SETUSER`.
fn documented_rights() -> String {
    let document = include_str!("../../../docs/backends/redis.md");
    let line = document
        .lines()
        .find_map(|line| line.trim().strip_prefix("ACL SETUSER tenure "))
        .expect("docs/backends/redis.md has a line that begins with `ACL SETUSER tenure`");
    // The test has its own user and password.
    let words = line
        .split(' ')
        .filter(|word| !word.starts_with('>') && *word != "on");
    words.collect::<Vec<_>>().join(" ")
}

fn start() -> Running<ServerBuilder> {
    let server = Server::builder()
        .tls()
        .require_client_certificate()
        .acl_user(USER, PASSWORD, &documented_rights())
        .start()
        .expect("a Redis server");
    let certificates = server.certificates().expect("certificates");
    Running::new(
        Access::new(server.url(), Some((USER, PASSWORD, certificates)), &[]),
        server,
    )
}

fn main() -> ExitCode {
    let ignored = &[("servers::*", "tested on the server without TLS and users")];
    tenure_conformance::main(Deployment::<Redis>::new(
        "redis with TLS and ACL",
        start,
        None,
        ignored,
    ))
}
