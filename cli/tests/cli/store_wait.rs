//! The wait for a store that has no connection left, or that cannot be reached at the start.

use std::time::Duration;

use nix::sys::signal::Signal;
use tenure_test_servers::{redis, wire::Proxy, zookeeper};

use crate::support::{Finished, Running, Sandbox, finished, now, unconfigured, wait_until};

/// Runs `true` under a lock of the store at `url`.
fn run(sandbox: &Sandbox, url: &str, options: &[&str]) -> std::process::Command {
    let mut command = unconfigured();
    command.args(["--url", url, "run"]).args(options);
    command.args(["wanted", "--", "true"]);
    command.current_dir(sandbox.path(""));
    command
}

fn refused(sandbox: &Sandbox, url: &str, options: &[&str]) -> Finished {
    finished(run(sandbox, url, options).output().unwrap())
}

/// Starts a run that writes its stderr to a file, and waits until it announces its wait.
fn waiting(sandbox: &Sandbox, url: &str, options: &[&str], words: &[&str]) -> Running {
    let errors = sandbox.path("errors");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "exec \"$@\" 2> errors", "sh"]);
    let inner = run(sandbox, url, options);
    command.arg(inner.get_program()).args(inner.get_args());
    command.current_dir(sandbox.path(""));
    let running = Running::start(command);
    wait_until("the announcement", || {
        let printed = std::fs::read_to_string(&errors).unwrap_or_default();
        let mut words = words.iter();
        printed.starts_with("tenure: waiting for the store of lock \"wanted\": ")
            && words.all(|word| printed.contains(word))
    });
    running
}

/// Takes the only connection of a server, and lets another run wait for it.
fn full_server_is_waited_for(url: &str, limit: &str) {
    let sandbox = Sandbox::new();
    let mut holder = unconfigured();
    holder.args(["--url", url, "run", "held", "-c"]);
    holder.arg("echo up > up; until test -e stop; do sleep 0.02; done");
    holder.current_dir(sandbox.path(""));
    let holder = Running::start(holder);
    sandbox.line("up");

    refused(&sandbox, url, &["-n"]).assert_failed(69, &["\"wanted\"", limit]);
    let begin = now();
    let late = refused(&sandbox, url, &["-q", "-w", "300ms"]);
    late.assert_failed(
        69,
        &[
            "gave up waiting for \"wanted\" after 300ms: the store has",
            limit,
        ],
    );
    assert!(now().since(begin).as_millis() >= 300);

    let mut next = waiting(&sandbox, url, &[], &[limit]);
    assert!(!next.has_ended());
    std::fs::write(sandbox.path("stop"), "").unwrap();
    holder.finish().assert_succeeded();
    next.finish().assert_succeeded();
}

#[test]
fn redis_with_no_connection_left_is_waited_for() {
    let server = redis::Server::builder().config("maxclients", "1");
    let server = server.start().unwrap();
    full_server_is_waited_for(&server.url(), "`maxclients`");
}

#[test]
fn zookeeper_with_no_connection_left_is_waited_for() {
    // The tick of a server that nobody has configured, which the command expects.
    let server = zookeeper::Server::builder().tick(Duration::from_secs(2));
    let server = server.config("maxClientCnxns", "1").start().unwrap();
    full_server_is_waited_for(&server.url(), "`maxClientCnxns`");
}

#[test]
fn store_that_is_away_at_the_start_is_waited_for_if_asked() {
    let server = redis::Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    proxy.refuse(true).unwrap();
    let sandbox = Sandbox::new();
    let words = ["store unavailable", "127.0.0.1"];

    refused(&sandbox, &proxy.url(), &["-w", "10s"]).assert_failed(69, &words);
    let late = refused(
        &sandbox,
        &proxy.url(),
        &["-q", "--wait-for-store", "-w", "300ms"],
    );
    late.assert_failed(
        69,
        &[
            "gave up waiting for \"wanted\" after 300ms: the store did not answer (",
            "127.0.0.1",
        ],
    );

    let waits = waiting(&sandbox, &proxy.url(), &["--wait-for-store"], &words);
    proxy.refuse(false).unwrap();
    waits.finish().assert_succeeded();
}

#[test]
fn wait_that_ends_while_the_store_is_away_says_that_it_gave_up() {
    let server = redis::Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let sandbox = Sandbox::new();
    let mut holder = unconfigured();
    holder.args(["--url", &server.url(), "run", "wanted", "-c"]);
    holder.arg("echo up > up; until test -e stop; do sleep 0.02; done");
    holder.current_dir(sandbox.path(""));
    let holder = Running::start(holder);
    sandbox.line("up");

    let waits = Running::start(run(
        &sandbox,
        &proxy.url(),
        &["-q", "-w", "10s", "--ttl", "6s", "--kill-after", "500ms"],
    ));
    wait_until("a waiter", || {
        let mut status = unconfigured();
        status.args([
            "--url",
            &server.url(),
            "--output",
            "json",
            "status",
            "wanted",
        ]);
        let status = finished(status.output().unwrap());
        let state: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
        state["queue"].as_array().unwrap().len() == 1
    });
    proxy.refuse(true).unwrap();
    proxy.cut().unwrap();
    let late = waits.finish_within(Duration::from_secs(60));
    assert_eq!(late.code, Some(69), "{late:?}");
    let wanted = "tenure: gave up waiting for \"wanted\" after 10s: the store did not answer (";
    let last = late.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with(wanted), "{late:?}");
    std::fs::write(sandbox.path("stop"), "").unwrap();
    holder.finish().assert_succeeded();
}

#[test]
fn signal_ends_the_wait_for_the_store() {
    let server = redis::Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    proxy.refuse(true).unwrap();
    let sandbox = Sandbox::new();
    let options = ["--wait-for-store", "--status-file", "status.json"];
    let waits = waiting(&sandbox, &proxy.url(), &options, &["store unavailable"]);
    waits.signal(Signal::SIGTERM);
    assert_eq!(waits.finish().code, Some(143));
    let status: serde_json::Value =
        serde_json::from_str(&sandbox.read("status.json").unwrap()).unwrap();
    assert_eq!(status["outcome"], "interrupted");
    assert_eq!(status["acquired"], false);
}
