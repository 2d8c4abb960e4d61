//! The suite on one etcd server that wants TLS, certificates of its clients, and a user who may read
//! and write below its namespaces and nothing else.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

#[path = "../servers/dedicated_servers.rs"]
mod dedicated_servers;
mod deployment;

use std::process::ExitCode;

use deployment::{Access, Deployment, Etcd, IGNORED, NAMESPACES};
use tenure_core::name::encode;
use tenure_test_servers::etcd::Server;

const USER: &str = "locker";
const PASSWORD: &str = "canary-7f3a";

struct Secured(Server);

impl Deployment for Secured {
    fn access(&self) -> Access {
        let files = self.0.certificates().expect("it speaks TLS");
        Access {
            url: self.0.url(),
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
}

fn main() -> ExitCode {
    let start = || {
        // Each case has a namespace of its own, and its user is the same.
        let server = Server::builder().require_client_certificate().user(
            USER,
            PASSWORD,
            &encode(NAMESPACES),
        );
        Secured(server.start().expect("an etcd server"))
    };
    static IGNORES: [(&str, &str); 4] = [
        IGNORED[0],
        IGNORED[1],
        IGNORED[2],
        ("servers::*", "shown on the server without TLS and users"),
    ];
    tenure_conformance::main(Etcd::new("etcd with TLS and users", start, &IGNORES))
}
