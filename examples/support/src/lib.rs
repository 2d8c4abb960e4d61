//! Support for the tests of the examples: a real process that a test can feed, pause, resume and read,
//! and that never outlives the test.
//!
//! All functions panic if the process does not do what the test expects. The message contains the
//! output of the process.
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

/// How long a process may print nothing while the test waits for a line. This is far longer than any
/// TTL and takeover bound of the tests.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(60);

/// Kills process `$1` at the end of the input, which is also the end of the test's process.
const WATCHDOG: &str = "trap '' HUP INT TERM; read -r _; kill -9 \"$1\"";

/// A running process of an example. It is killed when this is dropped, even while it is paused, and
/// when the test's process is killed.
#[derive(Debug)]
pub struct Program {
    child: Child,
    pid: Pid,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    printed: Vec<String>,
    watchdog: Option<Child>,
    reaped: bool,
}

impl Program {
    /// Starts a program. Its standard input stays open until [`end_input`](Self::end_input).
    ///
    /// The process does not inherit the configuration of this environment. Its request time-out is one
    /// second, which is enough on a busy machine.
    ///
    /// # Panics
    ///
    /// Panics if the program cannot be started.
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
        let (sender, lines) = channel();
        listen(child.stdout.take().expect("a pipe"), sender.clone());
        listen(child.stderr.take().expect("a pipe"), sender);
        let input = child.stdin.take();
        let mut program = Self {
            child,
            pid,
            input,
            lines,
            printed: Vec::new(),
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

    /// Waits for a line that contains the text, and returns this line. Later calls do not see the earlier
    /// lines again.
    ///
    /// # Panics
    ///
    /// Panics if the process ends first, or prints nothing for a minute.
    pub fn expect_line(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(OUTPUT_TIMEOUT) {
                Ok(line) => {
                    self.printed.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.fail("prints nothing", text),
                Err(RecvTimeoutError::Disconnected) => self.fail("has ended", text),
            }
        }
    }

    /// Waits for a line as [`expect_line`](Self::expect_line) does, and returns the number at its end.
    ///
    /// # Panics
    ///
    /// Panics as [`expect_line`](Self::expect_line) does, and if the line does not end with a number.
    pub fn expect_number(&mut self, text: &str) -> u64 {
        let line = self.expect_line(text);
        let number = line.rsplit(' ').next().and_then(|word| word.parse().ok());
        number.unwrap_or_else(|| self.fail("printed no number", text))
    }

    /// Writes a line to the standard input of the process.
    ///
    /// # Panics
    ///
    /// Panics if the process does not accept input.
    pub fn write_line(&mut self, line: &str) {
        let input = self.input.as_mut().expect("the input is open");
        writeln!(input, "{line}").expect("the process accepts input");
    }

    /// Closes the standard input of the process.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Pauses the process (SIGSTOP), and returns when all its threads have stopped.
    ///
    /// # Panics
    ///
    /// Panics if the process has ended.
    pub fn pause(&mut self) {
        self.signal(Signal::SIGSTOP);
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.pid), flags) {
            Ok(WaitStatus::Stopped(..)) => {}
            other => self.fail(&format!("was not paused: {other:?}"), ""),
        }
    }

    /// Resumes the process (SIGCONT).
    ///
    /// # Panics
    ///
    /// Panics if the process has ended.
    pub fn resume(&mut self) {
        self.signal(Signal::SIGCONT);
    }

    /// Closes the standard input and waits for the end of the process. Expects this exit code, and the
    /// text in a line after the last line that a call has returned.
    ///
    /// # Panics
    ///
    /// Panics if the process ends in another way, or prints nothing for a minute and does not end.
    pub fn expect_end(mut self, code: i32, text: &str) {
        self.end_input();
        let mut found = false;
        loop {
            match self.lines.recv_timeout(OUTPUT_TIMEOUT) {
                Ok(line) => {
                    found |= line.contains(text);
                    self.printed.push(line);
                }
                Err(RecvTimeoutError::Timeout) => self.fail("does not end", text),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let ended = self.reap();
        if ended != Some(code) {
            self.fail(&format!("ended with {ended:?}, not {code}"), text);
        }
        if !found {
            self.fail("did not print the text", text);
        }
    }

    fn signal(&mut self, signal: Signal) {
        // The process is not reaped, so no other process can have its id.
        kill(self.pid, signal).expect("a signal can be sent");
    }

    /// Ends the watchdog, and then reaps the process: after that, another process may have its id.
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

    fn fail(&self, what: &str, text: &str) -> ! {
        panic!(
            "process {} {what}; expected {text:?}; its output:\n{}",
            self.pid,
            self.printed.join("\n")
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
