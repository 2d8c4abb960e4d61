//! The messages while the store is unreachable during a run.

use std::{
    collections::BTreeSet,
    fs::File,
    process::{Child, Stdio},
};

use tenure_test_servers::{redis::Server, wire::Proxy};

use crate::support::{Sandbox, wait_until};

/// A run under the lock `x`, on a server behind a proxy. It ends when the file `stop` exists.
struct RunBehindProxy {
    sandbox: Sandbox,
    proxy: Proxy,
    child: Child,
    _server: Server,
}

impl RunBehindProxy {
    fn start() -> Self {
        let server = Server::builder().start().unwrap();
        let proxy = Proxy::start(server.address()).unwrap();
        let sandbox = Sandbox::new();
        let mut command = sandbox.tenure(&["--url", &proxy.url(), "run", "--ttl", "10s"]);
        command.args(["--kill-after", "300ms", "x", "-c"]);
        command.arg("echo up > up; until test -e stop; do sleep 0.02; done");
        command.stderr(File::create(sandbox.path("stderr")).unwrap());
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        sandbox.line("up");
        Self {
            sandbox,
            proxy,
            child,
            _server: server,
        }
    }

    fn has_printed(&self, text: &str) -> bool {
        let printed = self.sandbox.read("stderr").unwrap_or_default();
        printed
            .lines()
            .any(|line| line.starts_with("tenure: ") && line.contains(text))
    }

    fn set_unreachable(&self, unreachable: bool) {
        self.proxy.refuse(unreachable).unwrap();
        if unreachable {
            self.proxy.cut().unwrap();
        }
    }
}

impl Drop for RunBehindProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn failing_renewals_are_reported_before_the_loss_and_so_is_their_recovery() {
    let mut run = RunBehindProxy::start();
    run.set_unreachable(true);
    wait_until("a warning", || {
        run.has_printed("cannot renew lock \"x\"; it expires in ")
            && run.has_printed(", and the command gets TERM ")
    });
    assert!(
        run.has_printed("127.0.0.1"),
        "the message does not name the store: {:?}",
        run.sandbox.read("stderr")
    );
    run.set_unreachable(false);
    wait_until("the recovery", || {
        run.has_printed("lock \"x\" is renewed again")
    });
    File::create(run.sandbox.path("stop")).unwrap();
    assert_eq!(run.child.wait().unwrap().code(), Some(0));
}

#[test]
fn loss_message_names_the_cause_of_the_failed_renewals() {
    let mut run = RunBehindProxy::start();
    run.set_unreachable(true);
    assert_eq!(run.child.wait().unwrap().code(), Some(79));
    let printed = run.sandbox.read("stderr").unwrap();
    assert!(
        run.has_printed(
            "could not renew \"x\" in time, so the command was stopped before the lock expired; "
        ),
        "{printed}"
    );
    assert!(!printed.contains("expired without a renewal"), "{printed}");
    assert!(!printed.contains("it is unknown whether"), "{printed}");
}

/// Returns the scripts that clients have called.
fn scripts(proxy: &Proxy) -> BTreeSet<Vec<u8>> {
    let calls = proxy.commands().into_iter();
    calls
        .filter(|command| command.name.eq_ignore_ascii_case("evalsha"))
        .map(|command| command.arguments[0].clone())
        .collect()
}

#[test]
fn release_without_a_reply_is_looked_up_before_it_is_called_unknown() {
    let mut run = RunBehindProxy::start();
    let before = scripts(&run.proxy).len();
    run.proxy.hold_replies();
    File::create(run.sandbox.path("stop")).unwrap();
    // The script that releases, and after the request time-out the one that inspects.
    wait_until("the inspection", || scripts(&run.proxy).len() >= before + 2);
    run.proxy.release_replies();
    assert_eq!(run.child.wait().unwrap().code(), Some(0));
    let printed = run.sandbox.read("stderr").unwrap();
    assert!(!printed.contains("\"x\""), "{printed}");
}
