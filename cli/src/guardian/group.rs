//! The command's process group: starting it, signalling it, waiting for it.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group};

use super::protocol::Report;

/// A process group whose leader is the command.
#[derive(Debug)]
pub(super) struct Group(Pid);

/// What happened to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It exited with this code.
    Exited(u8),
    /// It died of this signal.
    Died(i32),
    /// It was stopped by this signal.
    Stopped(i32),
}

impl Group {
    /// Starts the command in a group of its own.
    pub(super) fn start(command: &[OsString], stdin: Option<OwnedFd>) -> Result<Self, Report> {
        let refused = |code, reason: String| Report::NotStarted { code, reason };
        let Some((program, arguments)) = command.split_first() else {
            return Err(refused(127, "no command was given".to_owned()));
        };
        let started = Command::new(program)
            .args(arguments)
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .process_group(0)
            .spawn();
        let child = started.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refused(127, "not found".to_owned()),
            io::ErrorKind::PermissionDenied => refused(126, "not executable".to_owned()),
            _ => refused(126, error.to_string()),
        })?;
        match i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            Some(pid) => Ok(Self(pid)),
            None => Err(refused(126, "it has no process id".to_owned())),
        }
    }

    /// Its id, which is its leader's process id.
    pub(super) const fn id(&self) -> Pid {
        self.0
    }

    /// Sends a signal to every process of it. One that has none left is no failure.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.0, signal);
    }

    /// Whether no process of it is left.
    pub(super) fn is_empty(&self) -> bool {
        test_kill_process_group(self.0).is_err_and(|error| error == rustix::io::Errno::SRCH)
    }

    /// What has happened to the leader since the last call, if anything.
    pub(super) fn poll(&self) -> Option<Change> {
        self.wait(WaitOptions::NOHANG | WaitOptions::UNTRACED)
    }

    fn wait(&self, options: WaitOptions) -> Option<Change> {
        let (_, status) = match rustix::process::waitpid(Some(self.0), options) {
            Ok(Some(change)) => change,
            Ok(None) | Err(rustix::io::Errno::INTR) => return None,
            // Nobody else waits for it; if it is gone all the same, it ended in an unknown way.
            Err(_) => return Some(Change::Died(Signal::KILL.as_raw())),
        };
        let status = std::process::ExitStatus::from_raw(status.as_raw());
        if let Some(signal) = status.stopped_signal() {
            return Some(Change::Stopped(signal));
        }
        if let Some(signal) = status.signal() {
            return Some(Change::Died(signal));
        }
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        code.map(Change::Exited)
    }
}
