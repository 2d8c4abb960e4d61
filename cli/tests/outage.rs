//! What an operator is told when the store goes away under a command.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may"
)]

mod common;

use std::{
    fs::File,
    process::{Child, Stdio},
};

use common::{Place, until};
use tenure_test_servers::{redis::Server, wire::Proxy};

/// A command under the lock `x`, on a server behind a proxy, until a file `stop` comes.
struct Held {
    place: Place,
    proxy: Proxy,
    child: Child,
    _server: Server,
}

impl Held {
    fn start() -> Self {
        let server = Server::builder().start().unwrap();
        let proxy = Proxy::start(server.address()).unwrap();
        let place = Place::new();
        let mut command = place.tenure(&["--url", &proxy.url(), "run", "--ttl", "9s"]);
        command.args(["--kill-after", "1s", "x", "-c"]);
        command.arg("echo up > up; until test -e stop; do sleep 0.02; done");
        command.stderr(File::create(place.path("said")).unwrap());
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        place.line("up");
        Self {
            place,
            proxy,
            child,
            _server: server,
        }
    }

    fn said(&self, words: &str) -> bool {
        let said = self.place.read("said").unwrap_or_default();
        said.lines()
            .any(|line| line.starts_with("tenure: ") && line.contains(words))
    }

    fn away(&self, away: bool) {
        self.proxy.refuse(away).unwrap();
        if away {
            self.proxy.cut().unwrap();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn failing_renewals_are_reported_before_the_loss_and_so_is_their_recovery() {
    let mut held = Held::start();
    held.away(true);
    until("a warning", || {
        held.said("cannot renew lock \"x\"; it expires in ")
    });
    assert!(
        held.said("127.0.0.1"),
        "which store: {:?}",
        held.place.read("said")
    );
    held.away(false);
    until("its end", || held.said("lock \"x\" is renewed again"));
    File::create(held.place.path("stop")).unwrap();
    assert_eq!(held.child.wait().unwrap().code(), Some(0));
}

#[test]
fn loss_message_names_the_cause_of_the_failed_renewals() {
    let mut held = Held::start();
    held.away(true);
    assert_eq!(held.child.wait().unwrap().code(), Some(79));
    assert!(
        held.said("lost \"x\", so the command was stopped: the lease expired without a renewal; "),
        "{:?}",
        held.place.read("said")
    );
}
