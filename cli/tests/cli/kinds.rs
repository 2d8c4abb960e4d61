//! Shared and counted locks, several locks, leaders, and a minimum hold.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Sandbox, children, is_alive, now, wait_until};

const HOLD: &str = "echo $TENURE_TOKEN $TENURE_FLOOR > $0.up; exec sleep 1000";

/// Starts a run that holds the lock, and waits until it does.
fn hold(sandbox: &Sandbox, options: &[&str], mark: &str) -> crate::support::Running {
    let script = HOLD.replace("$0", mark);
    let running = sandbox.spawn_run(options, "x", &script);
    sandbox.line(&format!("{mark}.up"));
    running
}

#[test]
fn m1_readers_share_and_a_writer_waits_for_all() {
    let sandbox = Sandbox::new();
    let first = hold(&sandbox, &["-s"], "first");
    let second = hold(&sandbox, &["--shared"], "second");
    let state = sandbox.status("x");
    assert_eq!(state["holder"]["mode"], "shared");
    assert_eq!(state["more_holders"][0]["mode"], "shared");
    let numbers = |mark: &str| -> Vec<u64> {
        let line = sandbox.line(&format!("{mark}.up"));
        line.split(' ')
            .map(|number| number.parse().unwrap())
            .collect()
    };
    let (one, two) = (numbers("first"), numbers("second"));
    assert_eq!(state["holder"]["token"].as_u64(), Some(one[0]));
    assert_eq!(
        (one[0], two[1]),
        (one[1], one[0]),
        "the floor is the first reader's token"
    );
    sandbox
        .run(&["run", "-n", "x", "--", "true"])
        .assert_failed(75, &["held (shared) by"]);
    let shown = sandbox.run(&["status", "x"]).stdout;
    assert_eq!(shown.matches("held (shared) by").count(), 2, "{shown}");
    let listed = sandbox.run(&["ls"]).stdout;
    assert!(listed.contains(", and 1 more, waiting: 0"), "{listed}");
    let writer = sandbox.spawn_run(&["-q"], "x", "true");
    wait_until("a writer", || sandbox.waiting("x") == 1);
    // A reader that comes now waits behind the writer.
    sandbox
        .run(&["run", "-sn", "x", "--", "true"])
        .assert_failed(75, &[]);
    for reader in [first, second] {
        reader.signal(Signal::SIGTERM);
        assert_eq!(reader.finish().code, Some(143));
    }
    writer.finish().assert_succeeded();
}

#[test]
fn m1_m6_permits_are_counted() {
    let sandbox = Sandbox::new();
    let two = hold(&sandbox, &["--permits", "2/3"], "two");
    assert_eq!(sandbox.status("x")["holder"]["mode"], "2/3");
    let try_it =
        |permits: &str| sandbox.run(&["run", "-n", "--permits", permits, "x", "--", "true"]);
    try_it("1/3").assert_succeeded();
    try_it("2/3").assert_failed(75, &["held (2 of 3 permits) by"]);
    try_it("1/4").assert_failed(75, &[]);
    try_it("4/3").assert_failed(64, &["only 3 exist"]);
    try_it("0/3").assert_failed(64, &["at least one"]);
    try_it("three").assert_failed(64, &["such as 1/4"]);
    sandbox
        .run(&["run", "-s", "--permits", "1/3", "x", "--", "true"])
        .assert_failed(64, &["--shared"]);
    drop(two);
}

#[test]
fn m8_also_takes_all_locks_or_none() {
    let sandbox = Sandbox::new();
    let inner = "tenure run -n b -- true; echo $? > inner";
    let path = std::path::Path::new(env!("CARGO_BIN_EXE_tenure"))
        .parent()
        .unwrap();
    let inner = format!("PATH={}:$PATH; {inner}", path.display());
    sandbox
        .run(&[
            "run", "--also", "b", "--also", "c", "--also", "b", "a", "-c", &inner,
        ])
        .assert_succeeded();
    assert_eq!(sandbox.line("inner"), "75");
    let held = hold(&sandbox, &[], "held");
    sandbox
        .run(&["run", "-n", "--also", "x", "a", "--", "true"])
        .assert_failed(75, &["\"a\" with \"x\" is held by"]);
    assert_eq!(sandbox.status("a")["holder"], Value::Null);
    drop(held);
    // A run under the lock would wait for itself.
    let nested = inner.replace("-n b", "--also b z");
    sandbox
        .run(&["run", "--also", "b", "a", "-c", &nested])
        .assert_succeeded();
    assert_eq!(sandbox.line("inner"), "64");
    sandbox
        .run(&["run", "--also", "", "a", "--", "true"])
        .assert_failed(64, &["empty"]);
}

#[test]
fn m8_loss_of_one_of_several_stops_the_command() {
    let sandbox = Sandbox::new();
    let running = hold(&sandbox, &["--also", "y"], "both");
    let token = sandbox.token("y").unwrap().to_string();
    sandbox
        .run(&["break", "y", "--token", &token, "--reason", "test"])
        .assert_succeeded();
    running.finish().assert_failed(
        79,
        &[
            "lost \"x\" with \"y\", so the command was stopped",
            "evicted",
        ],
    );
    assert_eq!(sandbox.status("x")["holder"], Value::Null);
}

#[test]
fn e1_leader_is_the_label_of_the_holder() {
    let sandbox = Sandbox::new();
    sandbox
        .run(&["leader", "x"])
        .assert_failed(1, &["nobody leads \"x\""]);
    let leading = hold(&sandbox, &["--value", "10.0.0.7:80"], "leading");
    assert_eq!(
        sandbox.run(&["leader", "x"]).assert_succeeded().stdout,
        "10.0.0.7:80\n"
    );
    let shown = sandbox.run(&["leader", "x", "--output", "json"]).stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["schema"], "tenure.leader/1");
    assert_eq!(shown["value"], "10.0.0.7:80");
    assert_eq!(shown["term"].as_u64(), sandbox.token("x"));
    drop(leading);
}

#[test]
fn h1_lock_is_kept_after_a_short_command() {
    let sandbox = Sandbox::new();
    let begun = now();
    let running = sandbox.spawn_run(&["--hold-at-least", "2s"], "x", "echo ran > ran; exit 3");
    sandbox.line("ran");
    // The command has ended, or ends any moment; another host that starts it finds the lock taken.
    sandbox
        .run(&["run", "-n", "x", "--", "true"])
        .assert_failed(75, &[]);
    assert_eq!(running.finish().code, Some(3));
    assert!(now().since(begun) >= Duration::from_secs(2));
    sandbox
        .run(&["run", "-n", "x", "--", "true"])
        .assert_succeeded();
}

#[test]
fn h1_interrupted_run_leaves_the_lock_to_its_ttl() {
    let sandbox = Sandbox::new();
    let running = sandbox.spawn_run(&["--hold-at-least", "1h"], "x", "echo ran > ran");
    sandbox.line("ran");
    wait_until("the end of the guardian", || {
        children(running.pid())
            .into_iter()
            .all(|child| !is_alive(child))
    });
    running.signal(Signal::SIGTERM);
    let ended = running.finish();
    assert_eq!(ended.code, Some(0));
    assert!(
        ended
            .stderr
            .contains("interrupted while `--hold-at-least` kept \"x\""),
        "{ended:?}"
    );
    assert!(sandbox.token("x").is_some());
}

/// The loss of one lock ends neither the hold of the others nor the attention to signals.
#[test]
fn h1_signal_ends_the_hold_of_the_locks_that_are_left() {
    let sandbox = Sandbox::new();
    let options = ["--also", "y", "--hold-at-least", "1h"];
    let mut running = sandbox.spawn_run(&options, "x", "echo ran > ran");
    sandbox.line("ran");
    wait_until("the end of the guardian", || {
        children(running.pid())
            .into_iter()
            .all(|child| !is_alive(child))
    });
    let token = sandbox.token("y").unwrap().to_string();
    sandbox
        .run(&["break", "y", "--token", &token, "--reason", "test"])
        .assert_succeeded();
    assert!(!running.has_ended());
    running.signal(Signal::SIGTERM);
    let ended = running.finish();
    assert!(ended.stderr.contains("interrupted while"), "{ended:?}");
    assert!(sandbox.token("x").is_some());
}

/// A signal that reached the command ends the hold, too: whoever sent it does not want to wait.
#[test]
fn h1_signal_during_the_command_ends_the_hold() {
    let sandbox = Sandbox::new();
    let running = hold(&sandbox, &["--hold-at-least", "1h"], "held");
    running.signal(Signal::SIGTERM);
    let ended = running.finish();
    assert_eq!(ended.code, Some(143));
    assert!(ended.stderr.contains("interrupted while"), "{ended:?}");
}

#[test]
fn e1_value_that_is_too_long_is_refused() {
    let sandbox = Sandbox::new();
    let long = "x".repeat(257);
    sandbox
        .run(&["run", "--value", &long, "x", "--", "true"])
        .assert_failed(64, &["at most 256 bytes, and this one has 257"]);
}
