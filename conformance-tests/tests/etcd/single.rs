//! The suite on one etcd server.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

mod site;

use std::process::ExitCode;

use site::{Access, Deployment, Etcd, IGNORED};
use tenure_test_servers::etcd::Server;

struct Single(Server);

impl Deployment for Single {
    fn access(&self) -> Access {
        Access {
            url: self.0.url(),
            ..Access::default()
        }
    }

    fn server(&self) -> &Server {
        &self.0
    }
}

fn main() -> ExitCode {
    let start = || Single(Server::builder().start().expect("an etcd server"));
    tenure_conformance::main(Etcd::new("etcd", start, &IGNORED))
}
