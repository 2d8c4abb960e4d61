//! The suite on one Redis server.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

#[path = "../servers/dedicated_servers.rs"]
mod dedicated_servers;
mod deployment;

use std::process::ExitCode;

use dedicated_servers::{DedicatedServers, apply_to};
use deployment::{Access, Deployment, Redis};
use tenure_test_servers::redis::Server;

struct Single(Server);

impl Deployment for Single {
    fn access(&self) -> Access {
        Access {
            url: self.0.url(),
            ..Access::default()
        }
    }

    fn servers(&self) -> Vec<&Server> {
        vec![&self.0]
    }

    fn tells_addresses(&self) -> bool {
        false
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
    Single(Server::builder().start().expect("a Redis server"))
}

fn main() -> ExitCode {
    let ignored = &[("secrets::show_nowhere", "this server asks for no password")];
    tenure_conformance::main(Redis::new("redis", start, ignored))
}
