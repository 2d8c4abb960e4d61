//! Lines on a stderr that is connected to the journal of systemd.

use std::{
    fs::File,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;

use crate::support::{Sandbox, wait_until};

/// Redirects stderr to a file, which `JOURNAL_STREAM` names.
fn connect(command: &mut Command, sandbox: &Sandbox) {
    let file = File::create(sandbox.path("journal")).unwrap();
    let metadata = file.metadata().unwrap();
    let stream = format!("{}:{}", metadata.dev(), metadata.ino());
    command.env("JOURNAL_STREAM", stream).stderr(file);
}

/// Runs the command and returns what it wrote to the journal.
fn run(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let mut command = sandbox.tenure(arguments);
    connect(&mut command, sandbox);
    command.stdout(Stdio::null()).status().unwrap();
    sandbox.read("journal").unwrap()
}

#[test]
fn line_has_its_priority_and_the_lines_of_the_command_stay_as_they_are() {
    let sandbox = Sandbox::new();
    let failed = run(
        &sandbox,
        &["run", "x", "-c", "echo text >&2; kill -KILL $$"],
    );
    assert_eq!(failed, "text\n");
    let failed = run(&sandbox, &["run", "x", "--", "no-such-command"]);
    assert!(failed.starts_with("<3>tenure: the command"), "{failed}");
    let usage = run(&sandbox, &["run", "x"]);
    assert!(usage.starts_with("<3>tenure: COMMAND"), "{usage}");

    let holder = sandbox.spawn_run(&[], "x", "echo up > up; exec sleep 1000");
    sandbox.line("up");
    let busy = run(&sandbox, &["run", "-n", "x", "--", "true"]);
    assert!(busy.starts_with("<5>tenure: \"x\" is held by"), "{busy}");
    let late = run(&sandbox, &["run", "-w", "10ms", "x", "--", "true"]);
    let lines: Vec<_> = late.lines().collect();
    assert_eq!(lines.len(), 2, "{late}");
    assert!(lines[0].starts_with("<6>tenure: waiting for"), "{late}");
    assert!(lines[1].starts_with("<5>tenure: gave up"), "{late}");
    drop(holder);
}

#[test]
fn log_has_priorities_and_no_time() {
    let sandbox = Sandbox::new();
    let log = run(&sandbox, &["-v", "run", "x", "--", "true"]);
    assert!(!log.is_empty());
    for line in log.lines() {
        assert!(line.starts_with("<7>DEBUG "), "{line}");
    }
}

#[test]
fn message_of_a_guardian_without_its_supervisor_is_an_error() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.tenure(&["run", "x", "-c", "echo up > up; exec sleep 1000"]);
    connect(&mut command, &sandbox);
    let mut child = command.spawn().unwrap();
    sandbox.line("up");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().cast_signed()),
        Signal::SIGKILL,
    )
    .unwrap();
    child.wait().unwrap();
    wait_until("the message of the guardian", || {
        let text = sandbox.read("journal").unwrap();
        text.starts_with("<3>tenure: \"x\": stopped the command")
    });
}

#[test]
fn stderr_that_is_not_the_journal_has_no_priorities() {
    let sandbox = Sandbox::new();
    for stream in ["1:2", "", "x"] {
        let mut command = sandbox.tenure(&["run", "x"]);
        command.env("JOURNAL_STREAM", stream);
        let output = command.output().unwrap();
        assert!(output.stderr.starts_with(b"tenure: "), "{output:?}");
    }
}
