//! The suite on one etcd server.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

#[path = "../servers/dedicated_servers.rs"]
mod dedicated_servers;
mod deployment;

use std::process::ExitCode;

use dedicated_servers::{DedicatedServers, apply_to};
use deployment::{Access, Deployment, Etcd, IGNORED};
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

    fn another(&self) -> Option<(Access, DedicatedServers)> {
        let another = start();
        let access = another.access();
        Some((
            access,
            DedicatedServers::new(move |act| apply_to!(another.0, act)),
        ))
    }
}

fn start() -> Single {
    Single(Server::builder().start().expect("an etcd server"))
}

fn main() -> ExitCode {
    tenure_conformance::main(Etcd::new("etcd", start, &IGNORED))
}
