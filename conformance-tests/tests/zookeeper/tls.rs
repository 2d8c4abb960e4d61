//! The suite on one ZooKeeper server with TLS and client certificates, as a user with the documented rights
//! only.
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
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

const USER: &str = "locker";
const PASSWORD: &str = "canary-7f3a";
/// The digest of `operator::SUPER_USER`.
const SUPER_USER_DIGEST: &str = "super:4gPCatsF03pavPprbxKvo5lV8Zw=";
const ROOT: &str = "/locks";

fn start() -> Running<ServerBuilder> {
    let server = settings()
        .require_client_certificate()
        .super_user(SUPER_USER_DIGEST)
        .start()
        .expect("a ZooKeeper server");
    let address = server.plain_address();
    // The thread of the caller belongs to a runtime, which must not block on another one.
    std::thread::spawn(move || {
        tokio::runtime::Runtime::new()
            .expect("a runtime")
            .block_on(give_rights(&address));
    })
    .join()
    .expect("the rights are given");
    let certificates = server.certificates().expect("certificates");
    let url = format!("{}{ROOT}", server.url());
    let user = Some((USER, PASSWORD, certificates));
    Running::new(Access::new(url, user, OPTIONS), server)
}

/// Gives the user the right to create nodes below the root of the locks, and no other right.
async fn give_rights(address: &str) {
    let connector = Client::connector();
    let secret = format!("{USER}:{PASSWORD}");
    let client = connector
        .with_auth("digest", secret.as_bytes())
        .connect(address)
        .await
        .expect("a connection");
    let create = [Acl::new(Permission::CREATE, AuthId::authed())];
    client
        .create(
            ROOT,
            b"",
            &CreateMode::Persistent.with_acls(Acls::new(&create)),
        )
        .await
        .expect("the root of the locks");
    let nobody = [Acl::new(
        Permission::ADMIN,
        AuthId::new("digest", "nobody:at-all"),
    )];
    client
        .set_acl("/", &nobody, None)
        .await
        .expect("no rights to other nodes");
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
        ("servers::*", "tested on the server without TLS and users"),
    ];
    tenure_conformance::main(Deployment::<ZooKeeper>::new(
        "zookeeper with TLS and ACL",
        start,
        None,
        ignored,
    ))
}
