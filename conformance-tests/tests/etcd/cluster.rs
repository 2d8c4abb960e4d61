//! The suite on three members of a cluster of etcd.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

mod site;

use std::process::ExitCode;

use site::{Access, Deployment, Etcd, IGNORED};
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
}

fn main() -> ExitCode {
    let start = || Three(Cluster::builder().start().expect("a cluster of etcd"));
    tenure_conformance::main(Etcd::new("etcd cluster", start, &IGNORED))
}
