//! The command's process group: its start, and the leader's changes of state.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, WaitOptions};

use super::protocol::Report;
use crate::process_group::ProcessGroup;

/// A process group whose leader is the command.
#[derive(Debug)]
pub(super) struct Group(ProcessGroup);

/// A change of the leader's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The leader exited with this code.
    Exited(u8),
    /// This signal killed the leader.
    Died(i32),
    /// This signal stopped the leader.
    Stopped(i32),
}

impl Group {
    /// Starts the command in a new group.
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
            Some(pid) => Ok(Self(ProcessGroup::new(pid))),
            None => Err(refused(126, "it has no process id".to_owned())),
        }
    }

    /// Returns the group's id, which is its leader's process id.
    pub(super) const fn id(&self) -> Pid {
        self.0.id()
    }

    /// Returns the group as a target of signals.
    pub(super) const fn processes(&self) -> ProcessGroup {
        self.0
    }

    /// Returns the leader's next change of state since the last call, if any.
    pub(super) fn poll(&self) -> Option<Change> {
        self.wait(WaitOptions::NOHANG | WaitOptions::UNTRACED)
    }

    fn wait(&self, options: WaitOptions) -> Option<Change> {
        let (_, status) = match rustix::process::waitpid(Some(self.id()), options) {
            Ok(Some(change)) => change,
            Ok(None) | Err(rustix::io::Errno::INTR) => return None,
            // No other process waits for the leader; if it is missing, it ended in an unknown way.
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
