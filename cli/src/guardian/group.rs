//! The command's process group: its start, and the leader's changes of state.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::{
    fs::{Access, access},
    io::Errno,
    process::{Pid, Signal, WaitOptions},
};

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
        let mut started = spawn(program, &[], arguments, stdin.as_ref());
        if matches!(&started, Err(error) if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()))
        {
            // The file has no `#!` line. A shell, `env` and `nohup` run it with `/bin/sh`, as
            // `execvp` does, and so does this program.
            let script = find_program(program);
            started = spawn(
                OsStr::new("/bin/sh"),
                &[script.into()],
                arguments,
                stdin.as_ref(),
            );
        }
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
            Ok(None) | Err(Errno::INTR) => return None,
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

/// Starts a program in a new process group.
fn spawn(
    program: &OsStr,
    first: &[OsString],
    arguments: &[OsString],
    stdin: Option<&OwnedFd>,
) -> io::Result<Child> {
    let stdin = match stdin {
        Some(stdin) => Stdio::from(stdin.try_clone()?),
        None => Stdio::null(),
    };
    Command::new(program)
        .args(first)
        .args(arguments)
        .stdin(stdin)
        .process_group(0)
        .spawn()
}

/// Returns the path of a program that exists, as `execvp` finds it.
fn find_program(program: &OsStr) -> PathBuf {
    let path = if program.as_encoded_bytes().contains(&b'/') {
        PathBuf::from(program)
    } else {
        let dirs = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
        let mut paths = env::split_paths(&dirs).map(|dir| Path::new(".").join(dir).join(program));
        let found = paths.find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok());
        found.unwrap_or_else(|| program.into())
    };
    if path.as_os_str().as_encoded_bytes().starts_with(b"-") {
        // The shell would take the path for an option.
        return Path::new(".").join(path);
    }
    path
}
