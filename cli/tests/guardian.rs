//! What happens to the command when its supervisor, its guardian or its lock goes away.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may"
)]

mod common;

use std::time::Duration;

use common::{Place, Running, children, is_alive, is_stopped, now, stat, until};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

/// Short enough for a test, long enough for a busy machine to renew in time.
const TTL: Duration = Duration::from_secs(3);
const SHORT: &[&str] = &["--ttl", "3s", "--kill-after", "300ms"];
/// Declared by the file backend as a share of the TTLs and a constant; with slack for the machine.
const TAKEOVER: Duration = Duration::from_secs(12);

/// A command that has a child of its own, and tells the ids of both.
const FAMILY: &str = "sleep 1000 & echo $! > child; echo $$ > leader; wait";

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [SHORT, more].concat()
}

/// A command that writes down the boot clock, in hundredths, for as long as it runs.
const TICKING: &str = "trap '' HUP; echo $$ > leader; \
    while :; do cut -d' ' -f1 /proc/uptime > tick.new; mv tick.new tick; sleep 0.02; done";

fn uptime(place: &Place, name: &str) -> f64 {
    place.read(name).unwrap().trim().parse().unwrap()
}

#[test]
fn x3_killed_supervisor_ends_the_command_and_its_children() {
    let place = Place::new();
    let holder = place.hold(SHORT, "x", FAMILY);
    let leader = place.pid("leader");
    let child = place.pid("child");
    let guardian = holder.guardian();
    let next = Running::start(place.tenure(&[
        "run",
        "-q",
        "--ttl",
        "3s",
        "--kill-after",
        "300ms",
        "x",
        "--",
        "true",
    ]));
    until("a waiter", || place.waiting("x") == 1);

    let begin = now();
    holder.signal(Signal::SIGKILL);
    until("the end of the command", || {
        !is_alive(leader) && !is_alive(child)
    });
    assert!(
        now().since(begin) < Duration::from_secs(2),
        "the guardian sees it at once"
    );
    until("the end of the guardian", || !is_alive(guardian));
    next.finish().succeeded();
    assert!(now().since(begin) < TAKEOVER);
    let said = holder.finish().stderr;
    assert!(said.contains("\"x\": stopped the command"), "{said:?}");
}

#[test]
fn x1_command_of_a_stopped_supervisor_ends_before_another_client_acquires() {
    let place = Place::new();
    let holder = place.hold(SHORT, "x", TICKING);
    let leader = place.pid("leader");
    until("a tick", || place.read("tick").is_some());
    let next = place.hold(&with(&["-q"]), "x", "cut -d' ' -f1 /proc/uptime > granted");
    until("a waiter", || place.waiting("x") == 1);

    let begin = now();
    holder.signal(Signal::SIGSTOP);
    next.finish().succeeded();
    assert!(now().since(begin) < TAKEOVER);
    assert!(!is_alive(leader));
    let (last, granted) = (uptime(&place, "tick"), uptime(&place, "granted"));
    assert!(
        last < granted,
        "the command ran at {last}, the next one began at {granted}"
    );

    holder.signal(Signal::SIGCONT);
    let done = holder.finish();
    assert_eq!(done.code, Some(79), "{done:?}");
    assert!(
        done.stderr
            .starts_with("tenure: lost \"x\", so the command was stopped"),
        "{done:?}"
    );
}

#[test]
fn command_receives_term_and_then_kill() {
    let place = Place::new();
    // It takes its time to end, and would take more than there is.
    let script = "trap 'echo asked > asked; sleep 1000' TERM; echo $$ > leader; while :; do sleep 0.05; done";
    let holder = place.hold(&["--ttl", "4s", "--kill-after", "600ms"], "x", script);
    let leader = place.pid("leader");
    holder.signal(Signal::SIGSTOP);
    until("TERM", || place.read("asked").is_some());
    let asked = now();
    assert!(is_alive(leader));
    until("KILL", || !is_alive(leader));
    let took = now().since(asked);
    assert!(
        took > Duration::from_millis(200) && took < Duration::from_secs(3),
        "{took:?}"
    );
    holder.signal(Signal::SIGCONT);
    assert_eq!(holder.finish().code, Some(79));
}

#[test]
fn end_by_the_guardian_is_a_loss_even_while_the_lock_is_held() {
    let place = Place::new();
    let script = "trap 'exit 0' TERM; echo $$ > leader; while :; do sleep 0.02; done";
    let options = [
        "--ttl",
        "6s",
        "--kill-after",
        "1s",
        "--status-file",
        "s.json",
    ];
    let holder = place.hold(&options, "x", script);
    let leader = place.pid("leader");
    holder.signal(Signal::SIGSTOP);
    until("the end of the command", || !is_alive(leader));
    // There is about a second left in which it can be renewed.
    holder.signal(Signal::SIGCONT);
    assert_eq!(holder.finish().code, Some(79));
    let record: serde_json::Value = serde_json::from_str(&place.read("s.json").unwrap()).unwrap();
    assert_eq!(record["outcome"], "lost");
}

#[test]
fn stopped_command_is_continued_to_handle_term() {
    let place = Place::new();
    let script = "trap 'echo asked > asked; exit 0' TERM; echo $$ > leader; \
        while :; do sleep 0.05; done";
    let holder = place.hold(&["--ttl", "6s", "--kill-after", "900ms"], "x", script);
    let leader = place.pid("leader");
    killpg(leader, Signal::SIGSTOP).unwrap();
    until("the command stopped", || is_stopped(leader));
    holder.signal(Signal::SIGSTOP);
    until("TERM", || place.read("asked").is_some());
    holder.signal(Signal::SIGCONT);
    assert_eq!(holder.finish().code, Some(79));
}

#[test]
fn pause_of_all_processes_past_the_ttl_is_a_loss() {
    // As a paused machine does. Only the token protects what is done in between.
    let place = Place::new();
    let holder = place.hold(&with(&["--status-file", "s.json"]), "x", TICKING);
    let leader = place.pid("leader");
    until("a tick", || place.read("tick").is_some());
    let guardian = holder.guardian();
    kill(guardian, Signal::SIGSTOP).unwrap();
    holder.signal(Signal::SIGSTOP);
    killpg(leader, Signal::SIGSTOP).unwrap();
    until("all stopped", || {
        [guardian, holder.pid(), leader].into_iter().all(is_stopped)
    });
    place
        .run(&[&["run", "-q"], SHORT, &["x", "--", "true"]].concat())
        .succeeded();

    let begin = now();
    killpg(leader, Signal::SIGCONT).unwrap();
    kill(guardian, Signal::SIGCONT).unwrap();
    holder.signal(Signal::SIGCONT);
    let done = holder.finish();
    assert_eq!(done.code, Some(79), "{done:?}");
    assert!(now().since(begin) < TTL);
    assert!(!is_alive(leader));
    let record: serde_json::Value = serde_json::from_str(&place.read("s.json").unwrap()).unwrap();
    assert_eq!(record["outcome"], "lost");
    assert_eq!(record["release"], "not_held");
}

#[test]
fn command_is_killed_when_its_guardian_is_killed() {
    let place = Place::new();
    let holder = place.hold(SHORT, "x", FAMILY);
    let (leader, child) = (place.pid("leader"), place.pid("child"));
    kill(holder.guardian(), Signal::SIGKILL).unwrap();
    let done = holder.finish();
    assert_eq!(done.code, Some(137), "{done:?}");
    assert!(done.stderr.contains("guardian"), "{done:?}");
    until("the end of the command", || {
        !is_alive(leader) && !is_alive(child)
    });
    place.run(&["run", "-n", "x", "--", "true"]).succeeded();
}

#[test]
fn command_of_an_evicted_lock_is_killed_even_if_the_guardian_is_stopped() {
    let place = Place::new();
    let holder = place.hold(SHORT, "x", FAMILY);
    let (leader, child) = (place.pid("leader"), place.pid("child"));
    let guardian = holder.guardian();
    kill(guardian, Signal::SIGSTOP).unwrap();
    let token = place.token("x").unwrap().to_string();
    place
        .run(&["break", "x", "--token", &token, "--reason", "test"])
        .succeeded();
    until("the end of the command", || {
        !is_alive(leader) && !is_alive(child)
    });
    // The guardian holds the pipes of the test open: it must go before the output is whole.
    until("the end of the supervisor", || {
        stat(holder.pid()).is_none_or(|(state, _)| state == 'Z')
    });
    kill(guardian, Signal::SIGCONT).unwrap();
    assert_eq!(holder.finish().code, Some(79));
}

fn broken(on_lost: &[&str], script: &str) -> (Place, common::Done) {
    let place = Place::new();
    let options = [&["--ttl", "30s", "--kill-after", "1s"], on_lost].concat();
    let holder = place.hold(&options, "x", script);
    place.line("leader");
    let token = place.token("x").unwrap().to_string();
    let shown = place.run(&["break", "x", "--token", &token, "--reason", "it hangs"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.stderr.contains("it hangs"), "{shown:?}");
    let done = holder.finish();
    (place, done)
}

#[test]
fn l2_eviction_kills_the_command_at_once() {
    let begin = now();
    let (_, done) = broken(
        &[],
        "trap 'echo asked > asked' TERM; echo $$ > leader; while :; do sleep 0.05; done",
    );
    assert_eq!(done.code, Some(79), "{done:?}");
    assert!(done.stderr.contains("evicted"), "{done:?}");
    assert!(now().since(begin) < Duration::from_secs(15));
}

#[test]
fn l2_on_lost_term_allows_the_command_to_clean_up() {
    let (place, done) = broken(
        &["--on-lost", "term", "--lost-exit-code", "9"],
        "trap 'echo asked > asked; exit 0' TERM; echo $$ > leader; while :; do sleep 0.05; done",
    );
    assert_eq!(done.code, Some(9), "{done:?}");
    assert_eq!(place.line("asked"), "asked");
}

#[test]
fn l2_on_lost_term_kills_a_command_that_ignores_term() {
    let (_, done) = broken(
        &["--on-lost", "term"],
        "trap '' TERM; echo $$ > leader; while :; do sleep 0.05; done",
    );
    assert_eq!(done.code, Some(79), "{done:?}");
}

#[test]
fn l2_on_lost_ignore_allows_the_command_to_end() {
    let (place, done) = broken(
        &["--on-lost", "ignore", "--status-file", "s.json"],
        "echo $$ > leader; while [ ! -e s.json ] && [ $((n+=1)) -lt 40 ]; do sleep 0.05; done; exit 5",
    );
    assert_eq!(done.code, Some(5), "{done:?}");
    assert!(done.stderr.contains("lost \"x\""), "{done:?}");
    let record: serde_json::Value = serde_json::from_str(&place.read("s.json").unwrap()).unwrap();
    assert_eq!(
        (&record["outcome"], &record["child_code"]),
        (&"lost".into(), &5.into())
    );
}

#[test]
fn grandchild_that_ignores_term_is_killed_by_the_deadline() {
    let place = Place::new();
    // The leader ends at TERM; what it has started does not.
    let script = "sh -c 'trap \"\" TERM; echo $$ > child; while :; do sleep 0.05; done' & echo $$ > leader; wait";
    let holder = place.hold(&["--ttl", "4s", "--kill-after", "500ms"], "x", script);
    let (leader, child) = (place.pid("leader"), place.pid("child"));
    holder.signal(Signal::SIGSTOP);
    until("the end of the command", || {
        !is_alive(leader) && !is_alive(child)
    });
    holder.signal(Signal::SIGCONT);
    assert_eq!(holder.finish().code, Some(79));
}

#[test]
fn k1_lock_of_a_long_run_is_renewed() {
    let place = Place::new();
    let holder = place.hold(SHORT, "x", "echo up > up; sleep 7");
    place.line("up");
    let token = place.token("x");
    assert_eq!(
        place.run(&["run", "-n", "-q", "x", "--", "true"]).code,
        Some(75)
    );
    holder.finish().succeeded();
    assert!(token.is_some() && place.token("x").is_none());
}

#[test]
fn signals_are_forwarded_to_the_command() {
    for (signal, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGUSR2, "USR2"),
    ] {
        let place = Place::new();
        let script = format!(
            "trap 'echo got > got; exit 21' {name}; echo $$ > leader; while :; do sleep 0.02; done"
        );
        let holder = place.hold(&[], "x", &script);
        place.line("leader");
        holder.signal(signal);
        let done = holder.finish();
        assert_eq!(done.code, Some(21), "{name}: {done:?}");
        assert_eq!(place.line("got"), "got");
    }
    let place = Place::new();
    let holder = place.hold(&[], "x", "echo $$ > leader; exec sleep 1000");
    place.line("leader");
    holder.signal(Signal::SIGTERM);
    assert_eq!(holder.finish().code, Some(143));
}

#[test]
fn guardian_survives_signals_sent_to_the_whole_service() {
    let place = Place::new();
    let script = "trap 'sleep 0.3; echo clean > clean; exit 0' TERM; echo $$ > leader; while :; do sleep 0.02; done";
    let holder = place.hold(&[], "x", script);
    let leader = place.pid("leader");
    kill(holder.guardian(), Signal::SIGTERM).unwrap();
    kill(leader, Signal::SIGTERM).unwrap();
    holder.signal(Signal::SIGTERM);
    holder.finish().succeeded();
    assert_eq!(place.line("clean"), "clean");
}

#[test]
fn w3_signal_removes_the_waiter_from_the_queue() {
    let place = Place::new();
    let holder = place.hold(&[], "x", "echo up > up; exec sleep 1000");
    place.line("up");
    for (signal, code) in [
        (Signal::SIGTERM, 143),
        (Signal::SIGINT, 130),
        (Signal::SIGHUP, 129),
    ] {
        let waiter = Running::start(place.tenure(&[
            "run",
            "-q",
            "--status-file",
            "s.json",
            "x",
            "--",
            "touch",
            "ran",
        ]));
        until("a waiter", || place.waiting("x") == 1);
        waiter.signal(signal);
        let done = waiter.finish();
        assert_eq!(done.code, Some(code), "{done:?}");
        assert_eq!(
            place.waiting("x"),
            0,
            "its entry is gone as soon as the process is"
        );
        let record: serde_json::Value =
            serde_json::from_str(&place.read("s.json").unwrap()).unwrap();
        assert_eq!(record["outcome"], "interrupted");
    }
    assert!(place.read("ran").is_none());
    drop(holder);
}

#[test]
fn nohup_stays_in_effect() {
    let place = Place::new();
    let mut command = std::process::Command::new("nohup");
    command.arg(env!("CARGO_BIN_EXE_tenure")).args([
        "run",
        "x",
        "-c",
        "echo $$ > leader; sleep 1; exit 6",
    ]);
    command
        .envs(place.environment())
        .current_dir(place.path("."));
    command.stdin(std::process::Stdio::null());
    let holder = Running::start(command);
    let leader = place.pid("leader");
    holder.signal(Signal::SIGHUP);
    kill(leader, Signal::SIGHUP).unwrap();
    assert_eq!(holder.finish().code, Some(6));
}

#[test]
fn command_stopped_without_job_control_keeps_the_lock() {
    let place = Place::new();
    let holder = place.hold(SHORT, "x", "echo $$ > leader; exec sleep 5");
    let leader = place.pid("leader");
    kill(leader, Signal::SIGSTOP).unwrap();
    until("the command stopped", || is_stopped(leader));
    std::thread::sleep(TTL);
    assert!(!is_stopped(holder.pid()));
    assert!(
        is_stopped(leader) && place.token("x").is_some(),
        "renewed meanwhile"
    );
    kill(leader, Signal::SIGCONT).unwrap();
    holder.finish().succeeded();
}

#[test]
fn guardian_has_a_separate_process_group() {
    let place = Place::new();
    let holder = place.hold(&[], "x", "echo $$ > leader; exec sleep 1000");
    let leader = place.pid("leader");
    let group = |pid: Pid| nix::unistd::getpgid(Some(pid)).unwrap();
    let guardian = holder.guardian();
    assert_eq!(group(guardian), guardian);
    assert_eq!(group(leader), leader);
    assert_ne!(group(holder.pid()), guardian);
    assert_eq!(children(guardian), [leader]);
}
