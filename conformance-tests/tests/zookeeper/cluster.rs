//! The suite on three ZooKeeper servers, below a chroot.
#![expect(
    clippy::expect_used,
    reason = "a server that is missing fails the run, with what to install"
)]

#[path = "../servers/dedicated_servers.rs"]
mod dedicated_servers;
mod deployment;

use std::process::ExitCode;

use dedicated_servers::{DedicatedServers, apply_to, at_once};
use deployment::{Access, Deployment, ZooKeeper};
use tenure_test_servers::zookeeper::{Cluster, Server, ServerBuilder};

/// In ticks of 100 ms: longer than a case stops the servers for. All of them that stand still for longer
/// can stay so, see `Cluster::stands_still`; that is the servers', and no client can mend it.
const SYNC_LIMIT: &str = "300";
const ROOT: &str = "/app/locks";

struct Three(Cluster);

impl Deployment for Three {
    fn access(&self) -> Access {
        Access {
            url: format!("{}{ROOT}", self.0.url().trim_end_matches('/')),
            ..Access::default()
        }
    }

    fn server(&self) -> &Server {
        &self.0.servers()[0]
    }

    fn plain(&self) -> String {
        let servers = self.0.servers().iter();
        let addresses: Vec<String> = servers.map(|server| server.address()).collect();
        addresses.join(",")
    }

    fn root(&self) -> &'static str {
        ROOT
    }

    fn another(&self) -> Option<(Access, DedicatedServers)> {
        let another = start(member().config("syncLimit", SYNC_LIMIT));
        let access = another.access();
        let act = move |act| at_once(another.0.servers(), |server| apply_to!(server, act));
        Some((access, DedicatedServers::new(act)))
    }
}

fn member() -> ServerBuilder {
    Server::builder()
        .config("maxSessionTimeout", "60000")
        .force_sync(false)
}

fn start(member: ServerBuilder) -> Three {
    Three(
        Cluster::builder()
            .members(member)
            .start()
            .expect("three ZooKeeper servers"),
    )
}

fn main() -> ExitCode {
    let ignored = &[
        ("secrets::show_nowhere", "these servers ask for no password"),
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
    tenure_conformance::main(ZooKeeper::new(
        "zookeeper cluster",
        || start(member()),
        ignored,
    ))
}
