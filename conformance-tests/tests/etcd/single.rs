//! The suite on one etcd server.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

#[path = "../servers/own.rs"]
mod own;
mod site;

use std::process::ExitCode;

use own::{Own, strike};
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

    fn another(&self) -> Option<(Access, Own)> {
        let another = start();
        let access = another.access();
        Some((access, Own::new(move |act| strike!(another.0, act))))
    }
}

fn start() -> Single {
    Single(Server::builder().start().expect("an etcd server"))
}

fn main() -> ExitCode {
    tenure_conformance::main(Etcd::new("etcd", start, &IGNORED))
}
