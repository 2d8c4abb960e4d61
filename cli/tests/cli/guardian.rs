//! The end of the command after the death of its supervisor or guardian, or the loss of its lock.

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

use crate::support::{
    Finished, Running, Sandbox, children, is_alive, is_stopped, now, state_and_parent, wait_until,
};

/// Short enough for a test, and long enough for a busy machine to renew in time.
const TTL: Duration = Duration::from_secs(3);
const SHORT_TTL: &[&str] = &["--ttl", "3s", "--kill-after", "300ms"];
/// The takeover time that the file backend declares for this TTL, with slack for a busy machine.
const TAKEOVER: Duration = Duration::from_secs(12);

/// A command that starts a child process and writes the ids of both.
const LEADER_AND_CHILD: &str = "sleep 1000 & echo $! > child; echo $$ > leader; wait";

fn with_short_ttl<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [SHORT_TTL, more].concat()
}

/// A command that writes the boot clock to a file, every 20 ms.
const WRITE_CLOCK: &str = "trap '' HUP; echo $$ > leader; \
    while :; do cut -d' ' -f1 /proc/uptime > tick.new; mv tick.new tick; sleep 0.02; done";

fn uptime(sandbox: &Sandbox, name: &str) -> f64 {
    sandbox.read(name).unwrap().trim().parse().unwrap()
}

#[test]
fn x3_killed_supervisor_ends_the_command_and_its_children() {
    let sandbox = Sandbox::new();
    let holder = sandbox.spawn_run(SHORT_TTL, "x", LEADER_AND_CHILD);
    let leader = sandbox.pid("leader");
    let child = sandbox.pid("child");
    let guardian = holder.guardian();
    let next = Running::start(sandbox.tenure(&[
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
    wait_until("a waiter", || sandbox.waiting("x") == 1);

    let begin = now();
    holder.signal(Signal::SIGKILL);
    wait_until("the end of the command", || {
        !is_alive(leader) && !is_alive(child)
    });
    assert!(
        now().since(begin) < Duration::from_secs(2),
        "the guardian notices at once"
    );
    wait_until("the end of the guardian", || !is_alive(guardian));
    next.finish().assert_succeeded();
    assert!(now().since(begin) < TAKEOVER);
    let printed = holder.finish().stderr;
    assert!(
        printed.contains("\"x\": stopped the command"),
        "{printed:?}"
    );
}

#[test]
fn x1_command_of_a_stopped_supervisor_ends_before_another_client_acquires() {
    let sandbox = Sandbox::new();
    let holder = sandbox.spawn_run(SHORT_TTL, "x", WRITE_CLOCK);
    let leader = sandbox.pid("leader");
    wait_until("a tick", || sandbox.read("tick").is_some());
    let next = sandbox.spawn_run(
        &with_short_ttl(&["-q"]),
        "x",
        "cut -d' ' -f1 /proc/uptime > granted",
    );
    wait_until("a waiter", || sandbox.waiting("x") == 1);

    let begin = now();
    holder.signal(Signal::SIGSTOP);
    next.finish().assert_succeeded();
    assert!(now().since(begin) < TAKEOVER);
    assert!(!is_alive(leader));
    let (last, granted) = (uptime(&sandbox, "tick"), uptime(&sandbox, "granted"));
    assert!(
        last < granted,
        "the command ran at {last}, and the next grant was at {granted}"
    );

    holder.signal(Signal::SIGCONT);
    let run = holder.finish();
    assert_eq!(run.code, Some(79), "{run:?}");
    assert!(
        run.stderr
            .starts_with("tenure: lost \"x\", so the command was stopped"),
        "{run:?}"
    );
}

#[test]
fn command_receives_term_and_then_kill() {
    let sandbox = Sandbox::new();
    // The command would need more time to end than it has.
    let script = "trap 'echo asked > asked; sleep 1000' TERM; echo $$ > leader; while :; do sleep 0.05; done";
    let holder = sandbox.spawn_run(&["--ttl", "4s", "--kill-after", "600ms"], "x", script);
    let leader = sandbox.pid("leader");
    holder.signal(Signal::SIGSTOP);
    wait_until("TERM", || sandbox.read("asked").is_some());
    let asked = now();
    assert!(is_alive(leader));
    wait_until("KILL", || !is_alive(leader));
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
    let sandbox = Sandbox::new();
    let script = "trap 'exit 0' TERM; echo $$ > leader; while :; do sleep 0.02; done";
    let options = [
        "--ttl",
        "6s",
        "--kill-after",
        "1s",
        "--status-file",
        "s.json",
    ];
    let holder = sandbox.spawn_run(&options, "x", script);
    let leader = sandbox.pid("leader");
    holder.signal(Signal::SIGSTOP);
    wait_until("the end of the command", || !is_alive(leader));
    // About one second of the lease is left, in which a renewal could succeed.
    holder.signal(Signal::SIGCONT);
    assert_eq!(holder.finish().code, Some(79));
    let status: serde_json::Value = serde_json::from_str(&sandbox.read("s.json").unwrap()).unwrap();
    assert_eq!(status["outcome"], "lost");
}

#[test]
fn stopped_command_is_continued_to_handle_term() {
    let sandbox = Sandbox::new();
    let script = "trap 'echo asked > asked; exit 0' TERM; echo $$ > leader; \
        while :; do sleep 0.05; done";
    let holder = sandbox.spawn_run(&["--ttl", "6s", "--kill-after", "900ms"], "x", script);
    let leader = sandbox.pid("leader");
    killpg(leader, Signal::SIGSTOP).unwrap();
    wait_until("the command stopped", || is_stopped(leader));
    holder.signal(Signal::SIGSTOP);
    wait_until("TERM", || sandbox.read("asked").is_some());
    holder.signal(Signal::SIGCONT);
    assert_eq!(holder.finish().code, Some(79));
}

#[test]
fn pause_of_all_processes_past_the_ttl_is_a_loss() {
    // This is like a paused machine. Until the end of the command, only the token protects.
    let sandbox = Sandbox::new();
    let holder = sandbox.spawn_run(
        &with_short_ttl(&["--status-file", "s.json"]),
        "x",
        WRITE_CLOCK,
    );
    let leader = sandbox.pid("leader");
    wait_until("a tick", || sandbox.read("tick").is_some());
    let guardian = holder.guardian();
    kill(guardian, Signal::SIGSTOP).unwrap();
    holder.signal(Signal::SIGSTOP);
    killpg(leader, Signal::SIGSTOP).unwrap();
    wait_until("all stopped", || {
        [guardian, holder.pid(), leader].into_iter().all(is_stopped)
    });
    sandbox
        .run(&[&["run", "-q"], SHORT_TTL, &["x", "--", "true"]].concat())
        .assert_succeeded();

    let begin = now();
    killpg(leader, Signal::SIGCONT).unwrap();
    kill(guardian, Signal::SIGCONT).unwrap();
    holder.signal(Signal::SIGCONT);
    let run = holder.finish();
    assert_eq!(run.code, Some(79), "{run:?}");
    assert!(now().since(begin) < TTL);
    assert!(!is_alive(leader));
    let status: serde_json::Value = serde_json::from_str(&sandbox.read("s.json").unwrap()).unwrap();
    assert_eq!(status["outcome"], "lost");
    assert_eq!(status["release"], "not_held");
}

#[test]
fn command_is_killed_when_its_guardian_is_killed() {
    let sandbox = Sandbox::new();
    let script = "trap 'echo yes > signalled' USR1; (trap '' USR1; exec sleep 1000) & \
                  echo $! > child; echo $$ > leader; while :; do wait; done";
    let holder = sandbox.spawn_run(SHORT_TTL, "x", script);
    let (leader, child) = (sandbox.pid("leader"), sandbox.pid("child"));
    // The guardian reports that the command has started before it passes on a signal.
    holder.signal(Signal::SIGUSR1);
    sandbox.line("signalled");
    kill(holder.guardian(), Signal::SIGKILL).unwrap();
    let run = holder.finish();
    assert_eq!(run.code, Some(137), "{run:?}");
    assert!(run.stderr.contains("guardian"), "{run:?}");
    wait_until("the end of the command", || {
        !is_alive(leader) && !is_alive(child)
    });
    sandbox
        .run(&["run", "-n", "x", "--", "true"])
        .assert_succeeded();
}

#[test]
fn x1_lock_is_left_to_its_ttl_if_the_guardian_dies_before_it_reports() {
    let sandbox = Sandbox::new();
    // The guardian must die between receiving the order to start and its first report. If it dies
    // earlier or later, the next try follows.
    for number in 0..200 {
        let name = format!("x{number}");
        let options = ["--ttl", "60s", "--status-file", "s.json"];
        let mut holder = sandbox.spawn_run(&options, &name, "exec sleep 2 >/dev/null 2>&1");
        let mut guardian = None;
        while guardian.is_none() && !holder.has_ended() {
            guardian = children(holder.pid()).first().copied();
        }
        kill(guardian.unwrap(), Signal::SIGKILL).unwrap();
        let run = holder.finish();
        if !run.stderr.contains("unknown whether the command runs") {
            continue;
        }
        run.assert_failed(69, &[&name, "is not released"]);
        let status = sandbox.read("s.json").unwrap();
        assert!(status.contains("\"release\":\"abandoned\""), "{status}");
        let next = sandbox.run(&["run", "-q", "-w", "1s", &name, "--", "true"]);
        assert_eq!(next.code, Some(75), "{next:?}");
        return;
    }
    panic!("no guardian was killed in time");
}

#[test]
fn command_of_an_evicted_lock_is_killed_even_if_the_guardian_is_stopped() {
    let sandbox = Sandbox::new();
    let holder = sandbox.spawn_run(SHORT_TTL, "x", LEADER_AND_CHILD);
    let (leader, child) = (sandbox.pid("leader"), sandbox.pid("child"));
    let guardian = holder.guardian();
    kill(guardian, Signal::SIGSTOP).unwrap();
    let token = sandbox.token("x").unwrap().to_string();
    sandbox
        .run(&["break", "x", "--token", &token, "--reason", "test"])
        .assert_succeeded();
    wait_until("the end of the command", || {
        !is_alive(leader) && !is_alive(child)
    });
    // The guardian keeps the pipes open, so it must end before the test reads the whole output.
    wait_until("the end of the supervisor", || {
        state_and_parent(holder.pid()).is_none_or(|(state, _)| state == 'Z')
    });
    kill(guardian, Signal::SIGCONT).unwrap();
    assert_eq!(holder.finish().code, Some(79));
}

fn run_and_evict(on_lost: &[&str], script: &str) -> (Sandbox, Finished) {
    let sandbox = Sandbox::new();
    let options = [&["--ttl", "30s", "--kill-after", "1s"], on_lost].concat();
    let holder = sandbox.spawn_run(&options, "x", script);
    sandbox.line("leader");
    let token = sandbox.token("x").unwrap().to_string();
    let shown = sandbox.run(&["break", "x", "--token", &token, "--reason", "it hangs"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.stderr.contains("it hangs"), "{shown:?}");
    let run = holder.finish();
    (sandbox, run)
}

#[test]
fn l2_eviction_kills_the_command_at_once() {
    let begin = now();
    let (_, run) = run_and_evict(
        &[],
        "trap 'echo asked > asked' TERM; echo $$ > leader; while :; do sleep 0.05; done",
    );
    assert_eq!(run.code, Some(79), "{run:?}");
    assert!(run.stderr.contains("evicted"), "{run:?}");
    assert!(now().since(begin) < Duration::from_secs(15));
}

#[test]
fn l2_on_lost_term_allows_the_command_to_clean_up() {
    let (sandbox, run) = run_and_evict(
        &["--on-lost", "term", "--lost-exit-code", "9"],
        "trap 'echo asked > asked; exit 0' TERM; echo $$ > leader; while :; do sleep 0.05; done",
    );
    assert_eq!(run.code, Some(9), "{run:?}");
    assert_eq!(sandbox.line("asked"), "asked");
}

#[test]
fn l2_on_lost_term_kills_a_command_that_ignores_term() {
    let (_, run) = run_and_evict(
        &["--on-lost", "term"],
        "trap '' TERM; echo $$ > leader; while :; do sleep 0.05; done",
    );
    assert_eq!(run.code, Some(79), "{run:?}");
}

#[test]
fn l2_on_lost_ignore_allows_the_command_to_end() {
    let (sandbox, run) = run_and_evict(
        &["--on-lost", "ignore", "--status-file", "s.json"],
        "echo $$ > leader; while [ ! -e s.json ] && [ $((n+=1)) -lt 40 ]; do sleep 0.05; done; exit 5",
    );
    assert_eq!(run.code, Some(5), "{run:?}");
    assert!(run.stderr.contains("lost \"x\""), "{run:?}");
    let status: serde_json::Value = serde_json::from_str(&sandbox.read("s.json").unwrap()).unwrap();
    assert_eq!(
        (&status["outcome"], &status["child_code"]),
        (&"lost".into(), &5.into())
    );
}

#[test]
fn grandchild_that_ignores_term_is_killed_by_the_deadline() {
    let sandbox = Sandbox::new();
    // The leader ends at TERM, and its child does not.
    let script = "sh -c 'trap \"\" TERM; echo $$ > child; while :; do sleep 0.05; done' & echo $$ > leader; wait";
    let holder = sandbox.spawn_run(&["--ttl", "4s", "--kill-after", "500ms"], "x", script);
    let (leader, child) = (sandbox.pid("leader"), sandbox.pid("child"));
    holder.signal(Signal::SIGSTOP);
    wait_until("the end of the command", || {
        !is_alive(leader) && !is_alive(child)
    });
    holder.signal(Signal::SIGCONT);
    assert_eq!(holder.finish().code, Some(79));
}

#[test]
fn k1_lock_of_a_long_run_is_renewed() {
    let sandbox = Sandbox::new();
    let holder = sandbox.spawn_run(SHORT_TTL, "x", "echo up > up; sleep 5");
    sandbox.line("up");
    let token = sandbox.token("x");
    assert_eq!(
        sandbox.run(&["run", "-n", "-q", "x", "--", "true"]).code,
        Some(75)
    );
    holder.finish().assert_succeeded();
    assert!(token.is_some() && sandbox.token("x").is_none());
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
        let sandbox = Sandbox::new();
        let script = format!(
            "trap 'echo got > got; exit 21' {name}; echo $$ > leader; while :; do sleep 0.02; done"
        );
        let holder = sandbox.spawn_run(&[], "x", &script);
        sandbox.line("leader");
        holder.signal(signal);
        let run = holder.finish();
        assert_eq!(run.code, Some(21), "{name}: {run:?}");
        assert_eq!(sandbox.line("got"), "got");
    }
    let sandbox = Sandbox::new();
    let holder = sandbox.spawn_run(&[], "x", "echo $$ > leader; exec sleep 1000");
    sandbox.line("leader");
    holder.signal(Signal::SIGTERM);
    assert_eq!(holder.finish().code, Some(143));
}

#[test]
fn guardian_survives_signals_sent_to_the_whole_service() {
    let sandbox = Sandbox::new();
    let script = "trap 'sleep 0.3; echo clean > clean; exit 0' TERM; echo $$ > leader; while :; do sleep 0.02; done";
    let holder = sandbox.spawn_run(&[], "x", script);
    let leader = sandbox.pid("leader");
    kill(holder.guardian(), Signal::SIGTERM).unwrap();
    kill(leader, Signal::SIGTERM).unwrap();
    holder.signal(Signal::SIGTERM);
    holder.finish().assert_succeeded();
    assert_eq!(sandbox.line("clean"), "clean");
}

#[test]
fn w3_signal_removes_the_waiter_from_the_queue() {
    let sandbox = Sandbox::new();
    let holder = sandbox.spawn_run(&[], "x", "echo up > up; exec sleep 1000");
    sandbox.line("up");
    for (signal, code) in [
        (Signal::SIGTERM, 143),
        (Signal::SIGINT, 130),
        (Signal::SIGHUP, 129),
    ] {
        let waiter = Running::start(sandbox.tenure(&[
            "run",
            "-q",
            "--status-file",
            "s.json",
            "x",
            "--",
            "touch",
            "ran",
        ]));
        wait_until("a waiter", || sandbox.waiting("x") == 1);
        waiter.signal(signal);
        let run = waiter.finish();
        assert_eq!(run.code, Some(code), "{run:?}");
        assert_eq!(
            sandbox.waiting("x"),
            0,
            "the entry is removed before the process ends"
        );
        let status: serde_json::Value =
            serde_json::from_str(&sandbox.read("s.json").unwrap()).unwrap();
        assert_eq!(status["outcome"], "interrupted");
    }
    assert!(sandbox.read("ran").is_none());
    drop(holder);
}

#[test]
fn nohup_stays_in_effect() {
    let sandbox = Sandbox::new();
    let mut command = std::process::Command::new("nohup");
    command.arg(env!("CARGO_BIN_EXE_tenure")).args([
        "run",
        "x",
        "-c",
        "echo $$ > leader; sleep 1; exit 6",
    ]);
    command
        .envs(sandbox.environment())
        .current_dir(sandbox.path("."));
    command.stdin(std::process::Stdio::null());
    let holder = Running::start(command);
    let leader = sandbox.pid("leader");
    holder.signal(Signal::SIGHUP);
    kill(leader, Signal::SIGHUP).unwrap();
    assert_eq!(holder.finish().code, Some(6));
}

#[test]
fn command_stopped_without_job_control_keeps_the_lock() {
    let sandbox = Sandbox::new();
    let holder = sandbox.spawn_run(SHORT_TTL, "x", "echo $$ > leader; exec sleep 4");
    let leader = sandbox.pid("leader");
    kill(leader, Signal::SIGSTOP).unwrap();
    wait_until("the command stopped", || is_stopped(leader));
    std::thread::sleep(TTL);
    assert!(!is_stopped(holder.pid()));
    assert!(
        is_stopped(leader) && sandbox.token("x").is_some(),
        "the lock was renewed while the command was stopped"
    );
    kill(leader, Signal::SIGCONT).unwrap();
    holder.finish().assert_succeeded();
}

#[test]
fn guardian_has_a_separate_process_group() {
    let sandbox = Sandbox::new();
    let holder = sandbox.spawn_run(&[], "x", "echo $$ > leader; exec sleep 1000");
    let leader = sandbox.pid("leader");
    let group = |pid: Pid| nix::unistd::getpgid(Some(pid)).unwrap();
    let guardian = holder.guardian();
    assert_eq!(group(guardian), guardian);
    assert_eq!(group(leader), leader);
    assert_ne!(group(holder.pid()), guardian);
    assert_eq!(children(guardian), [leader]);
}
