//! `tenure run` in a pid namespace, where its process group has no number, and as process 1.
//!
//! Only root can create a pid namespace, so these tests do nothing for other users.

use std::process::{Command, Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{
    Running, Sandbox, children, finished, is_alive, is_root, state_and_parent, wait_until, write,
};

/// Options of `unshare`. With the last ones, `/proc` shows the processes of the new namespace.
const NEW_NAMESPACE: [&[&str]; 2] = [
    &["--pid", "--fork", "--kill-child"],
    &["--pid", "--fork", "--kill-child", "--mount-proc"],
];

/// Returns whether this process may create a pid namespace.
fn is_permitted() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "true"]);
    is_root() && command.output().is_ok_and(|output| output.status.success())
}

/// Returns the command that starts `tenure run` through another program.
fn through(sandbox: &Sandbox, program: &str, options: &[&str], run: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(options)
        .args([env!("CARGO_BIN_EXE_tenure"), "run"])
        .args(run)
        .envs(sandbox.environment())
        .current_dir(sandbox.path("."))
        .stdin(Stdio::null());
    command
}

/// Starts a run in a new namespace. Returns `unshare`, and the number of `tenure` outside.
fn start(sandbox: &Sandbox, options: &[&str], run: &[&str]) -> (Running, Pid) {
    let unshare = Running::start(through(sandbox, "unshare", options, run));
    sandbox.line("up");
    let tenure = children(unshare.pid())[0];
    (unshare, tenure)
}

const RUN: &[&str] = &[
    "x",
    "-c",
    "echo up > up; until test -e stop; do sleep 0.02; done; exit 3",
];

#[test]
fn run_in_a_new_pid_namespace_runs_the_command_and_releases_the_lock() {
    if !is_permitted() {
        return;
    }
    for options in NEW_NAMESPACE {
        let sandbox = Sandbox::new();
        let mut run = through(&sandbox, "unshare", options, &["x", "-c", "exit 3"]);
        let run = finished(run.output().unwrap());
        assert_eq!((run.code, &*run.stderr), (Some(3), ""), "{options:?}");
        let next = sandbox.run(&["run", "-n", "x", "--", "true"]);
        next.assert_succeeded();
    }
}

#[test]
fn run_that_enters_a_pid_namespace_runs_the_command() {
    if !is_permitted() {
        return;
    }
    let sandbox = Sandbox::new();
    let (unshare, first) = start(&sandbox, NEW_NAMESPACE[0], RUN);
    let target = first.to_string();
    let options = ["-t", &target, "-p"];
    let mut run = through(&sandbox, "nsenter", &options, &["y", "-c", "exit 4"]);
    let run = finished(run.output().unwrap());
    assert_eq!((run.code, &*run.stderr), (Some(4), ""));
    write(&sandbox.path("stop"), "");
    assert_eq!(unshare.finish().code, Some(3));
}

#[test]
fn run_whose_children_enter_another_pid_namespace_is_refused_before_any_effect() {
    if !is_permitted() {
        return;
    }
    let sandbox = Sandbox::new();
    let mut run = through(
        &sandbox,
        "unshare",
        &["--pid"],
        &["x", "--", "touch", "ran"],
    );
    finished(run.output().unwrap()).assert_failed(64, &["unshare --pid --fork"]);
    assert!(sandbox.read("ran").is_none());
    sandbox
        .run(&["run", "-n", "x", "--", "true"])
        .assert_succeeded();
}

#[test]
fn run_without_proc_is_refused_before_any_effect() {
    if !is_permitted() {
        return;
    }
    let sandbox = Sandbox::new();
    let script = "mount -t tmpfs none /proc && exec \"$0\" \"$@\"";
    let options = ["--mount", "sh", "-c", script];
    let mut run = through(&sandbox, "unshare", &options, &["x", "--", "touch", "ran"]);
    finished(run.output().unwrap()).assert_failed(69, &["/proc"]);
    assert!(sandbox.read("ran").is_none() && !sandbox.path("locks").exists());
}

#[test]
fn l2_eviction_kills_the_command_in_a_pid_namespace() {
    if !is_permitted() {
        return;
    }
    for options in NEW_NAMESPACE {
        let sandbox = Sandbox::new();
        // The child ignores TERM and outlives the leader.
        let script = "sh -c \"trap '' TERM; echo up > up; exec sleep 1000\" & wait";
        let run = [
            "--on-lost",
            "term",
            "--kill-after",
            "300ms",
            "x",
            "-c",
            script,
        ];
        let (unshare, tenure) = start(&sandbox, options, &run);
        let guardian = children(tenure)[0];
        let leader = children(guardian)[0];
        let token = sandbox.token("x").unwrap().to_string();
        sandbox
            .run(&["break", "x", "--token", &token, "--reason", "test"])
            .assert_succeeded();
        let run = unshare.finish();
        assert_eq!(run.code, Some(79), "{options:?}: {run:?}");
        assert!(!is_alive(leader));
    }
}

#[test]
fn command_in_a_pid_namespace_is_killed_when_its_guardian_is_killed() {
    if !is_permitted() {
        return;
    }
    for options in NEW_NAMESPACE {
        let sandbox = Sandbox::new();
        let (unshare, tenure) = start(&sandbox, options, RUN);
        let guardian = children(tenure)[0];
        let leader = children(guardian)[0];
        kill(guardian, Signal::SIGKILL).unwrap();
        assert_eq!(unshare.finish().code, Some(137), "{options:?}");
        assert!(!is_alive(leader));
        sandbox
            .run(&["run", "-n", "x", "--", "true"])
            .assert_succeeded();
    }
}

#[test]
fn process_one_forwards_term_to_the_command() {
    if !is_permitted() {
        return;
    }
    let sandbox = Sandbox::new();
    let script = "trap 'exit 21' TERM; echo up > up; while :; do sleep 0.02; done";
    let (unshare, tenure) = start(&sandbox, NEW_NAMESPACE[0], &["x", "-c", script]);
    kill(tenure, Signal::SIGTERM).unwrap();
    assert_eq!(unshare.finish().code, Some(21));
}

#[test]
fn process_one_reaps_the_processes_that_the_command_leaves_behind() {
    if !is_permitted() {
        return;
    }
    for options in NEW_NAMESPACE {
        let sandbox = Sandbox::new();
        // The subshell ends at once, so process 1 adopts its child.
        let script = "(sh -c 'until test -e go; do sleep 0.02; done; echo gone > gone' &); \
            echo up > up; until test -e stop; do sleep 0.02; done; exit 3";
        let (unshare, tenure) = start(&sandbox, options, &["x", "-c", script]);
        wait_until("the adoption", || children(tenure).len() == 2);
        write(&sandbox.path("go"), "");
        sandbox.line("gone");
        wait_until("the end of the zombie", || children(tenure).len() == 1);
        let guardian = children(tenure)[0];
        assert!(state_and_parent(guardian).is_some_and(|(state, _)| state != 'Z'));
        // The exit status of the command is not lost.
        write(&sandbox.path("stop"), "");
        assert_eq!(unshare.finish().code, Some(3), "{options:?}");
    }
}
