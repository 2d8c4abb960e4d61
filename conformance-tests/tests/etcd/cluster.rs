//! The suite on three members of a cluster of etcd.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

mod site;

use std::process::ExitCode;

use site::{Access, Deployment, Etcd, POOLED_AND_OPEN};
use tenure_test_servers::etcd::Cluster;

struct Three(Cluster);

impl Deployment for Three {
    fn access(&self) -> Access {
        Access {
            url: self.0.url(),
            ..Access::default()
        }
    }

    fn flags(&self) -> Vec<String> {
        let members: Vec<_> = self.0.servers().iter().map(|one| one.address()).collect();
        vec![format!("--endpoints={}", members.join(","))]
    }
}

fn main() -> ExitCode {
    let start = || Three(Cluster::builder().start().expect("a cluster of etcd"));
    tenure_conformance::main(Etcd::new("etcd cluster", start, &POOLED_AND_OPEN))
}
