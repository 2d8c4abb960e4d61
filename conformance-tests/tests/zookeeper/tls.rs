//! The suite on one ZooKeeper server over TLS with certificates of its clients, as a user who may do
//! no more than the documentation asks for.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

#[path = "../servers/dedicated_servers.rs"]
mod dedicated_servers;
mod deployment;

use std::process::ExitCode;

use deployment::{Access, Deployment, ZooKeeper};
use tenure_test_servers::zookeeper::Server;
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

const USER: &str = "locker";
const PASSWORD: &str = "canary-7f3a";
/// The servers' administrator, whom no right is refused.
const OPERATOR: (&str, &str) = ("super", "canary-super-11");
const OPERATOR_DIGEST: &str = "super:4gPCatsF03pavPprbxKvo5lV8Zw=";
const ROOT: &str = "/locks";

struct Secured(Server);

impl Secured {
    fn start() -> Self {
        let server = Server::builder()
            .config("maxSessionTimeout", "60000")
            .force_sync(false)
            .require_client_certificate()
            .super_user(OPERATOR_DIGEST)
            .start()
            .expect("a ZooKeeper server");
        let address = server.plain_address();
        // The runtime of the suite may not be blocked upon.
        std::thread::spawn(move || {
            tokio::runtime::Runtime::new()
                .expect("a runtime")
                .block_on(give_rights(&address));
        })
        .join()
        .expect("the rights are given");
        Self(server)
    }
}

/// The right to make nodes below the root of the locks, and none besides.
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
        .expect("nobody may do anything else");
}

impl Deployment for Secured {
    fn access(&self) -> Access {
        let files = self.0.certificates().expect("it speaks TLS");
        Access {
            url: format!("{}{ROOT}", self.0.url()),
            username: Some(USER.to_owned()),
            password: Some(PASSWORD.to_owned()),
            ca_file: Some(files.ca_file()),
            cert_file: Some(files.client_certificate_file()),
            key_file: Some(files.client_key_file()),
        }
    }

    fn server(&self) -> &Server {
        &self.0
    }

    fn plain(&self) -> String {
        self.0.plain_address()
    }

    fn root(&self) -> &'static str {
        ROOT
    }

    fn operator(&self) -> Option<(&'static str, &'static str)> {
        Some(OPERATOR)
    }
}

fn main() -> ExitCode {
    let ignored = &[
        (
            "exclusion::silent_holder_is_succeeded",
            "locks of one client share a session",
        ),
        (
            "waiting::dead_waiter_delays_patient_ones_no_more",
            "locks of one client share a session",
        ),
        (
            "capabilities::requirements_are_checked",
            "it has all that can be required",
        ),
        ("servers::*", "shown on the server without TLS and users"),
    ];
    tenure_conformance::main(ZooKeeper::new(
        "zookeeper with TLS and ACL",
        Secured::start,
        ignored,
    ))
}
