//! What the tests of the examples share: a real process that is fed, paused, continued and
//! watched, and that never outlives its test.
//!
//! Everything here panics when the process does something else than the test wants, and shows what
//! it has said so far.
#![expect(clippy::panic, clippy::expect_used, reason = "only tests use this")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

/// How long a process may be silent while the test waits for it to say something. Far more than
/// any TTL of a test and the takeover bound that goes with it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kills `$1` when its input ends: when the test's process is gone, by whatever cause.
const WATCHDOG: &str = "trap '' HUP INT TERM; read -r _; kill -9 \"$1\"";

/// A running process of an example. Killed when dropped, also while it is paused, and when the
/// test's process is killed.
#[derive(Debug)]
pub struct Program {
    child: Child,
    pid: Pid,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    said: Vec<String>,
    watchdog: Option<Child>,
    reaped: bool,
}

impl Program {
    /// Starts a program. Its standard input stays open until [`end_input`](Self::end_input).
    ///
    /// What this machine's environment configures is kept from it, and a request may take a second:
    /// far more than it needs, so that a busy machine does not matter.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"TENURE__") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(arguments)
            .env("TENURE__CLIENT__REQUEST_TIMEOUT", "1s")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the example starts");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let (said, lines) = channel();
        listen(child.stdout.take().expect("a pipe"), said.clone());
        listen(child.stderr.take().expect("a pipe"), said);
        let input = child.stdin.take();
        let mut program = Self {
            child,
            pid,
            input,
            lines,
            said: Vec::new(),
            watchdog: None,
            reaped: false,
        };
        program.watchdog = Some(
            Command::new("/bin/sh")
                .args(["-c", WATCHDOG, "sh", &pid.to_string()])
                .stdin(Stdio::piped())
                .process_group(0)
                .spawn()
                .expect("a shell starts"),
        );
        program
    }

    /// Waits until it says a line with these words in it, and returns that line. What was said
    /// before it is not looked at again.
    ///
    /// # Panics
    ///
    /// When it ends before, or says nothing for a minute.
    pub fn says(&mut self, words: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.fail("is silent", words),
                Err(RecvTimeoutError::Disconnected) => self.fail("has ended", words),
            }
        }
    }

    /// As [`says`](Self::says), and returns the number that the line ends with.
    ///
    /// # Panics
    ///
    /// As [`says`](Self::says), and when the line does not end with a number.
    pub fn says_number(&mut self, words: &str) -> u64 {
        let line = self.says(words);
        let number = line.rsplit(' ').next().and_then(|word| word.parse().ok());
        number.unwrap_or_else(|| self.fail("named no number", words))
    }

    /// Gives it a line of input.
    ///
    /// # Panics
    ///
    /// When it does not take it.
    pub fn reads(&mut self, line: &str) {
        let input = self.input.as_mut().expect("its input has not ended");
        writeln!(input, "{line}").expect("it takes its input");
    }

    /// Ends its input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Pauses it (SIGSTOP), and returns when no thread of it runs any more.
    ///
    /// # Panics
    ///
    /// When it has ended.
    pub fn pause(&mut self) {
        self.signal(Signal::SIGSTOP);
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.pid), flags) {
            Ok(WaitStatus::Stopped(..)) => {}
            other => self.fail(&format!("was not paused: {other:?}"), ""),
        }
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Panics
    ///
    /// When it has ended.
    pub fn resume(&mut self) {
        self.signal(Signal::SIGCONT);
    }

    /// Ends its input and waits for its end: with that exit code, and with these words among the
    /// lines that it said after the last one that was waited for.
    ///
    /// # Panics
    ///
    /// When it ends in another way, or goes on for a minute without saying anything.
    pub fn ends(mut self, code: i32, words: &str) {
        self.end_input();
        let mut found = false;
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    found |= line.contains(words);
                    self.said.push(line);
                }
                Err(RecvTimeoutError::Timeout) => self.fail("does not end", words),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let ended = self.reap();
        if ended != Some(code) {
            self.fail(&format!("ended with {ended:?}, not {code}"), words);
        }
        if !found {
            self.fail("did not say so", words);
        }
    }

    fn signal(&mut self, signal: Signal) {
        // Not reaped yet, so the number is still its own.
        kill(self.pid, signal).expect("it can be sent a signal");
    }

    /// Waits for the end and gives the process id back, but not before the watchdog is gone.
    fn reap(&mut self) -> Option<i32> {
        let _ = waitid(
            Id::Pid(self.pid),
            WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT,
        );
        if let Some(mut watchdog) = self.watchdog.take() {
            let _ = watchdog.kill();
            let _ = watchdog.wait();
        }
        self.reaped = true;
        self.child.wait().ok()?.code()
    }

    fn fail(&self, what: &str, words: &str) -> ! {
        panic!(
            "process {} {what}; wanted: {words:?}; it said:\n{}",
            self.pid,
            self.said.join("\n")
        )
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.child.kill();
            self.reap();
        }
    }
}

fn listen(from: impl Read + Send + 'static, to: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
}
