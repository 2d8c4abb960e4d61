//! The suite on three masters of a cluster.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

#[path = "../servers/dedicated_servers.rs"]
mod dedicated_servers;
mod deployment;

use std::process::ExitCode;

use deployment::{Access, Deployment, Redis};
use tenure_test_servers::redis::{Cluster, Server};

struct Sharded(Cluster);

impl Deployment for Sharded {
    fn access(&self) -> Access {
        Access {
            url: self.0.url(),
            ..Access::default()
        }
    }

    fn servers(&self) -> Vec<&Server> {
        self.0.nodes().iter().collect()
    }
}

fn main() -> ExitCode {
    let start = || Sharded(Cluster::builder().start().expect("a cluster"));
    let ignored = &[
        ("secrets::show_nowhere", "these servers ask for no password"),
        (
            "faults::*",
            "servers tell clients each other's addresses, which lead past a proxy",
        ),
        ("servers::*", "shown on the server that is alone"),
    ];
    tenure_conformance::main(Redis::new("redis cluster", start, ignored))
}
