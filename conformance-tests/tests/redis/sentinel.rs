//! The suite on a master and its replica under a sentinel, with every grant acknowledged by the
//! replica.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

#[path = "../servers/dedicated_servers.rs"]
mod dedicated_servers;
mod deployment;

use std::process::ExitCode;

use deployment::{Access, Deployment, Redis};
use tenure_test_servers::redis::{Sentinel, Server};

struct Watched(Sentinel);

impl Deployment for Watched {
    fn access(&self) -> Access {
        Access {
            url: self.0.url(),
            options: vec![("min_replicas".to_owned(), "1".to_owned())],
            ..Access::default()
        }
    }

    fn servers(&self) -> Vec<&Server> {
        self.0.servers().iter().collect()
    }
}

fn main() -> ExitCode {
    let start = || Watched(Sentinel::builder().start().expect("servers and a sentinel"));
    let ignored = &[
        ("secrets::show_nowhere", "these servers ask for no password"),
        (
            "faults::*",
            "servers tell clients each other's addresses, which lead past a proxy",
        ),
        ("servers::*", "shown on the server that is alone"),
    ];
    tenure_conformance::main(Redis::new("redis under a sentinel", start, ignored))
}
