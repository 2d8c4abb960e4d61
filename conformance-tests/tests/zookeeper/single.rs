//! The suite on one ZooKeeper server.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

#[path = "../servers/dedicated_servers.rs"]
mod dedicated_servers;
mod deployment;

use std::process::ExitCode;

use dedicated_servers::{DedicatedServers, apply_to};
use deployment::{Access, Deployment, ZooKeeper};
use tenure_test_servers::zookeeper::Server;

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

    fn plain(&self) -> String {
        self.0.address()
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
    Single(
        Server::builder()
            .config("maxSessionTimeout", "60000")
            .force_sync(false)
            .start()
            .expect("a ZooKeeper server"),
    )
}

fn main() -> ExitCode {
    let ignored = &[
        ("secrets::show_nowhere", "this server asks for no password"),
        (
            "exclusion::silent_holder_is_succeeded",
            "locks of one client share a session",
        ),
        (
            "waiting::dead_waiter_delays_patient_ones_no_more",
            "locks of one client share a session",
        ),
        (
            "capabilities::requirements_are_checked",
            "it has all that can be required",
        ),
    ];
    tenure_conformance::main(ZooKeeper::new("zookeeper", start, ignored))
}
