//! Job control: an interactive shell on a pseudo-terminal, Ctrl-Z, `fg`, `bg` and Ctrl-C.

use std::{
    fs::File,
    io::{Read, Write},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use nix::{pty::openpty, sys::signal::Signal};

use crate::support::{CONDITION_TIMEOUT, Running, Sandbox, is_alive, is_stopped, now, wait_until};

/// Starts a session with an interactive shell on the terminal that the environment names. The tests
/// below start this binary again for it.
#[test]
#[ignore = "part of other tests, which start it"]
fn session_process() {
    let Some(name) = std::env::var_os("SESSION_TERMINAL") else {
        return;
    };
    nix::unistd::setsid().unwrap();
    // The first terminal that the leader of a session opens becomes the terminal of the session.
    let terminal = File::options().read(true).write(true).open(name).unwrap();
    let stdio = || Stdio::from(terminal.try_clone().unwrap());
    let mut shell = Command::new("bash");
    shell
        .args(["--norc", "--noprofile", "-i"])
        .env("PS1", "")
        .env("HISTFILE", "/dev/null");
    shell.stdin(stdio()).stdout(stdio()).stderr(stdio());
    shell.status().unwrap();
}

/// An interactive shell, and the text on its terminal.
struct Session {
    _process: Running,
    _terminal: std::os::fd::OwnedFd,
    master: File,
    shown: Arc<Mutex<String>>,
}

impl Session {
    fn start(sandbox: &Sandbox) -> Self {
        let pair = openpty(None, None).unwrap();
        let name = nix::unistd::ttyname(&pair.slave).unwrap();
        // The session must not inherit ignored signals from the tests.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=HUP,INT,QUIT")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "terminal::session_process"])
            .env("SESSION_TERMINAL", name)
            .envs(sandbox.environment())
            .env("TENURE", env!("CARGO_BIN_EXE_tenure"))
            .stdin(Stdio::null())
            .current_dir(sandbox.path("."));
        let process = Running::start(command);
        let master = File::from(pair.master);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut reader, seen) = (master.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(count) = reader.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                seen.lock().unwrap().push_str(&text);
            }
        });
        let session = Self {
            _process: process,
            _terminal: pair.slave,
            master,
            shown,
        };
        session.assert_prompt();
        session
    }

    fn send(&self, text: &str) {
        (&self.master).write_all(text.as_bytes()).unwrap();
    }

    /// Asserts that the shell reads its terminal.
    #[track_caller]
    fn assert_prompt(&self) {
        self.send_and_expect("echo ready-$((40 + 2))\n", "ready-42");
    }

    /// Sends a line and waits for the expected output. The terminal echoes the line, so the output must
    /// differ from it.
    #[track_caller]
    fn send_and_expect(&self, line: &str, expected: &str) {
        self.shown.lock().unwrap().clear();
        self.send(line);
        self.wait_for_text(expected);
    }

    #[track_caller]
    fn wait_for_text(&self, expected: &str) {
        let limit = now() + CONDITION_TIMEOUT;
        while !self.shown.lock().unwrap().contains(expected) {
            assert!(
                now() < limit,
                "{expected:?} is not on the terminal: {:?}",
                self.shown.lock().unwrap()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

const RUN_SLEEP: &str = "$TENURE run x -- sh -c 'echo $$ > leader; exec sleep 1000'\n";

#[test]
fn ctrl_z_returns_the_prompt_and_fg_continues() {
    let sandbox = Sandbox::new();
    let session = Session::start(&sandbox);
    session.send(RUN_SLEEP);
    let leader = sandbox.pid("leader");
    session.send("\u{1a}");
    wait_until("the command stopped", || is_stopped(leader));
    session.assert_prompt();
    assert!(sandbox.token("x").is_some());

    session.send("fg\n");
    wait_until("the command continued", || {
        is_alive(leader) && !is_stopped(leader)
    });
    // The command has the terminal again, so it receives Ctrl-C.
    wait_until_foreground(&session, leader);
    session.send("\u{3}");
    wait_until("the end of the command", || !is_alive(leader));
    session.send_and_expect("echo code=$(($? + 0)).\n", "code=130.");
    assert!(sandbox.token("x").is_none());
}

/// Waits until the group is the foreground group of the terminal.
fn wait_until_foreground(session: &Session, group: nix::unistd::Pid) {
    wait_until("the command in the foreground", || {
        nix::unistd::tcgetpgrp(&session._terminal).is_ok_and(|present| present == group)
            || foreground(group) == Some(group.as_raw())
    });
}

/// Returns the foreground group of the terminal of a process.
fn foreground(pid: nix::unistd::Pid) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(5)?
        .parse()
        .ok()
}

#[test]
fn ctrl_c_reaches_the_command_and_the_shell_regains_the_terminal() {
    let sandbox = Sandbox::new();
    let session = Session::start(&sandbox);
    session.send("$TENURE run x -- sh -c 'trap \"echo cleaning; exit 7\" INT; echo $$ > leader; while :; do sleep 0.05; done'\n");
    let leader = sandbox.pid("leader");
    wait_until("the terminal", || {
        foreground(leader) == Some(leader.as_raw())
    });
    session.send("\u{3}");
    wait_until("the end of the command", || !is_alive(leader));
    session.send_and_expect("echo code=$(($? + 0)).\n", "code=7.");
}

#[test]
fn command_that_reads_the_terminal_receives_the_input() {
    let sandbox = Sandbox::new();
    let session = Session::start(&sandbox);
    session.send("$TENURE run x -- sh -c 'echo $$ > leader; read line; echo \"$line\" > typed'\n");
    sandbox.pid("leader");
    session.send("some words\n");
    assert_eq!(sandbox.line("typed"), "some words");
    session.assert_prompt();
    // With stdout in a pipe, the command receives the terminal when it first reads from it.
    session.send("$TENURE run x -- sh -c 'echo $$ > leader2; read line < /dev/tty; echo \"$line\" > typed2' | cat\n");
    sandbox.pid("leader2");
    session.send("more words\n");
    assert_eq!(sandbox.line("typed2"), "more words");
    session.assert_prompt();
}

#[test]
fn x1_stopped_run_loses_its_lock_and_its_command_in_time() {
    let sandbox = Sandbox::new();
    let session = Session::start(&sandbox);
    session.send(
        "$TENURE run --ttl 3s --kill-after 300ms x -- sh -c 'echo $$ > leader; exec sleep 1000'\n",
    );
    let leader = sandbox.pid("leader");
    session.send("\u{1a}");
    wait_until("the command stopped", || is_stopped(leader));
    session.assert_prompt();
    // The stopped command is killed before the lock is granted again.
    sandbox
        .run(&[
            "run",
            "-q",
            "--ttl",
            "3s",
            "--kill-after",
            "300ms",
            "x",
            "--",
            "true",
        ])
        .assert_succeeded();
    assert!(!is_alive(leader));
    session.send_and_expect("fg; echo code=$(($? + 0)).\n", "code=79.");
}

#[test]
fn background_run_does_not_take_the_terminal() {
    let sandbox = Sandbox::new();
    let session = Session::start(&sandbox);
    session.send("$TENURE run x -- sh -c 'echo $$ > leader; exec sleep 1000' &\n");
    let leader = sandbox.pid("leader");
    session.assert_prompt();
    assert_ne!(foreground(leader), Some(leader.as_raw()));
    nix::sys::signal::kill(leader, Signal::SIGKILL).unwrap();
    session.send_and_expect("wait $!; echo code=$(($? + 0)).\n", "code=137.");
}
