//! The suite on one etcd server with TLS and client certificates, as a user with rights to the namespaces
//! of the cases only.
#![expect(
    clippy::expect_used,
    reason = "a missing server fails the run with a hint how to install it"
)]

#[path = "../deployment/mod.rs"]
mod deployment;
mod operator;

use std::process::ExitCode;

use deployment::{Access, Deployment, NAMESPACE_PREFIX, Running};
use operator::Etcd;
use tenure_core::name::encode;
use tenure_test_servers::etcd::{Server, ServerBuilder};

const USER: &str = "locker";
const PASSWORD: &str = "canary-7f3a";

fn start() -> Running<ServerBuilder> {
    let server = Server::builder()
        .require_client_certificate()
        .user(USER, PASSWORD, &encode(NAMESPACE_PREFIX))
        .start()
        .expect("an etcd server");
    let certificates = server.certificates().expect("certificates");
    Running::new(
        Access::new(server.url(), Some((USER, PASSWORD, certificates)), &[]),
        server,
    )
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
        ("servers::*", "tested on the server without TLS and users"),
    ];
    tenure_conformance::main(Deployment::<Etcd>::new(
        "etcd with TLS and users",
        start,
        None,
        ignored,
    ))
}
