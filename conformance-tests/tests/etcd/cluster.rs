//! The suite on three members of a cluster of etcd.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

#[path = "../servers/dedicated_servers.rs"]
mod dedicated_servers;
mod deployment;

use std::process::ExitCode;

use dedicated_servers::{DedicatedServers, apply_to, at_once};
use deployment::{Access, Deployment, Etcd, IGNORED};
use tenure_test_servers::etcd::{Cluster, Server};

struct Three(Cluster);

impl Deployment for Three {
    fn access(&self) -> Access {
        Access {
            url: self.0.url(),
            ..Access::default()
        }
    }

    fn server(&self) -> &Server {
        self.0.server(0)
    }

    fn another(&self) -> Option<(Access, DedicatedServers)> {
        let another = start();
        let access = another.access();
        let act = move |act| at_once(another.0.servers(), |server| apply_to!(server, act));
        Some((access, DedicatedServers::new(act)))
    }
}

fn start() -> Three {
    Three(Cluster::builder().start().expect("a cluster of etcd"))
}

fn main() -> ExitCode {
    tenure_conformance::main(Etcd::new("etcd cluster", start, &IGNORED))
}
