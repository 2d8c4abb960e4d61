//! Job control: an interactive shell on a pseudo-terminal, Ctrl-Z, `fg`, `bg` and Ctrl-C.
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
    io::{Read, Write},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use common::{Place, Running, is_alive, is_stopped, now, until};
use nix::{pty::openpty, sys::signal::Signal};

/// Starts a session on the terminal that is named in the environment, with an interactive shell in
/// it: this test binary, started again.
#[test]
#[ignore = "a part of the tests below, which start it"]
fn a_session() {
    let Some(name) = std::env::var_os("SESSION_TERMINAL") else {
        return;
    };
    nix::unistd::setsid().unwrap();
    // The first terminal that the leader of a session opens becomes the session's own.
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

/// An interactive shell, what it is told, and what it shows.
struct Session {
    _process: Running,
    _terminal: std::os::fd::OwnedFd,
    master: File,
    shown: Arc<Mutex<String>>,
}

impl Session {
    fn start(place: &Place) -> Self {
        let pair = openpty(None, None).unwrap();
        let name = nix::unistd::ttyname(&pair.slave).unwrap();
        // What whoever starts the tests ignores must not be ignored in the session.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=HUP,INT,QUIT")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "a_session"])
            .env("SESSION_TERMINAL", name)
            .envs(place.environment())
            .env("TENURE", env!("CARGO_BIN_EXE_tenure"))
            .stdin(Stdio::null())
            .current_dir(place.path("."));
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
        session.answers();
        session
    }

    fn send(&self, text: &str) {
        (&self.master).write_all(text.as_bytes()).unwrap();
    }

    /// Asserts that the shell reads its terminal.
    #[track_caller]
    fn answers(&self) {
        self.shows("echo ready-$((40 + 2))\n", "ready-42");
    }

    /// Asserts that the shell answers a line so. What is typed is shown too, so that the answer
    /// must differ from the line.
    #[track_caller]
    fn shows(&self, line: &str, wanted: &str) {
        self.shown.lock().unwrap().clear();
        self.send(line);
        self.await_text(wanted);
    }

    #[track_caller]
    fn await_text(&self, wanted: &str) {
        let limit = now() + common::PATIENCE;
        while !self.shown.lock().unwrap().contains(wanted) {
            assert!(
                now() < limit,
                "{wanted:?} was not shown: {:?}",
                self.shown.lock().unwrap()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

const HELD: &str = "$TENURE run x -- sh -c 'echo $$ > leader; exec sleep 1000'\n";

#[test]
fn ctrl_z_returns_the_prompt_and_fg_continues() {
    let place = Place::new();
    let session = Session::start(&place);
    session.send(HELD);
    let leader = place.pid("leader");
    session.send("\u{1a}");
    until("the command stopped", || is_stopped(leader));
    session.answers();
    assert!(place.token("x").is_some());

    session.send("fg\n");
    until("the command goes on", || {
        is_alive(leader) && !is_stopped(leader)
    });
    // It has the terminal again: Ctrl-C is for it.
    until_foreground(&session, leader);
    session.send("\u{3}");
    until("the end of the command", || !is_alive(leader));
    session.shows("echo code=$(($? + 0)).\n", "code=130.");
    assert!(place.token("x").is_none());
}

/// The group of the terminal's foreground, by the eyes of the kernel.
fn until_foreground(session: &Session, group: nix::unistd::Pid) {
    until("the command in the foreground", || {
        nix::unistd::tcgetpgrp(&session._terminal).is_ok_and(|present| present == group)
            || foreground(group) == Some(group.as_raw())
    });
}

/// The foreground group of the terminal of a process.
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
    let place = Place::new();
    let session = Session::start(&place);
    session.send("$TENURE run x -- sh -c 'trap \"echo cleaning; exit 7\" INT; echo $$ > leader; while :; do sleep 0.05; done'\n");
    let leader = place.pid("leader");
    until("the terminal", || {
        foreground(leader) == Some(leader.as_raw())
    });
    session.send("\u{3}");
    until("the end of the command", || !is_alive(leader));
    session.shows("echo code=$(($? + 0)).\n", "code=7.");
}

#[test]
fn command_that_reads_the_terminal_receives_the_input() {
    let place = Place::new();
    let session = Session::start(&place);
    session.send("$TENURE run x -- sh -c 'echo $$ > leader; read line; echo \"$line\" > typed'\n");
    place.pid("leader");
    session.send("some words\n");
    assert_eq!(place.line("typed"), "some words");
    session.answers();
    // The same with stdout in a pipe, where the terminal is given on demand.
    session.send("$TENURE run x -- sh -c 'echo $$ > leader2; read line < /dev/tty; echo \"$line\" > typed2' | cat\n");
    place.pid("leader2");
    session.send("more words\n");
    assert_eq!(place.line("typed2"), "more words");
    session.answers();
}

#[test]
fn x1_stopped_run_loses_its_lock_and_its_command_in_time() {
    let place = Place::new();
    let session = Session::start(&place);
    session.send(
        "$TENURE run --ttl 3s --kill-after 300ms x -- sh -c 'echo $$ > leader; exec sleep 1000'\n",
    );
    let leader = place.pid("leader");
    session.send("\u{1a}");
    until("the command stopped", || is_stopped(leader));
    session.answers();
    // Stopped as it is, it is ended before the lock can be granted again.
    place
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
        .succeeded();
    assert!(!is_alive(leader));
    session.shows("fg; echo code=$(($? + 0)).\n", "code=79.");
}

#[test]
fn background_run_does_not_take_the_terminal() {
    let place = Place::new();
    let session = Session::start(&place);
    session.send("$TENURE run x -- sh -c 'echo $$ > leader; exec sleep 1000' &\n");
    let leader = place.pid("leader");
    session.answers();
    assert_ne!(foreground(leader), Some(leader.as_raw()));
    nix::sys::signal::kill(leader, Signal::SIGKILL).unwrap();
    session.shows("wait $!; echo code=$(($? + 0)).\n", "code=137.");
}
