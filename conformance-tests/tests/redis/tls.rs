//! The suite on one Redis server that wants TLS, certificates of its clients, and a user with the
//! rights of the documentation and no others.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

#[path = "../servers/dedicated_servers.rs"]
mod dedicated_servers;
mod deployment;

use std::process::ExitCode;

use deployment::{Access, Deployment, Redis};
use tenure_test_servers::redis::Server;

const USER: &str = "locker";
const PASSWORD: &str = "canary-7f3a";

/// The documented rights: the line of docs/operations.md that begins with `ACL SETUSER`.
fn documented_rights() -> String {
    let document = include_str!("../../../docs/operations.md");
    let line = document
        .lines()
        .find_map(|line| line.trim().strip_prefix("ACL SETUSER tenure "))
        .expect("docs/operations.md has a line that begins with `ACL SETUSER tenure`");
    // Who may log in is the test's own business.
    let words = line
        .split(' ')
        .filter(|word| !word.starts_with('>') && *word != "on");
    words.collect::<Vec<_>>().join(" ")
}

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
            options: Vec::new(),
        }
    }

    fn servers(&self) -> Vec<&Server> {
        vec![&self.0]
    }

    fn tells_addresses(&self) -> bool {
        false
    }
}

fn main() -> ExitCode {
    let start = || {
        let server = Server::builder()
            .tls()
            .require_client_certificate()
            .acl_user(USER, PASSWORD, &documented_rights());
        Secured(server.start().expect("a Redis server"))
    };
    let ignored = &[("servers::*", "shown on the server without TLS and users")];
    tenure_conformance::main(Redis::new("redis with TLS and ACL", start, ignored))
}
