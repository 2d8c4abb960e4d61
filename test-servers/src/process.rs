//! One server process and its watchdog.
//!
//! The server leads its own process group; the only other member is a watchdog shell that reads from a
//! pipe. Only this process holds the writing end (the standard library closes its pipes in every child), so
//! that the pipe ends with this process, whatever the cause. Then the watchdog kills the server and
//! deletes its directory. While the watchdog runs, the system cannot reuse the id of the group, so that no
//! other process is killed.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

use crate::{
    Error,
    poll::{self, Condition},
};

/// `$1` is the directory to delete, the rest is the server's command line. The subshell is the watchdog;
/// `$$` inside it is still the id of the outer shell, which becomes the server.
const WATCHDOG_SCRIPT: &str = r#"
exec 3<&0 </dev/null
directory=$1
shift
(
    trap '' HUP INT TERM
    read -r _ <&3
    kill -9 $$
    rm -rf -- "$directory"
    kill -9 0
) &
exec 3<&-
exec "$@"
"#;

/// The number of lines of a log in an error.
const LOG_LINES: usize = 15;

/// The time limit for the system to stop a process on a busy machine.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A running server, killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    /// `Child` knows whether the process was reaped, so that a reused id is never signalled. Its standard
    /// input is the watchdog's pipe.
    child: Mutex<Child>,
    id: u32,
}

impl Process {
    /// Starts `program` with these variables added to its environment, and appends its output to `log`. If
    /// this process ends before the server, the watchdog deletes `directory`.
    pub(crate) fn start(
        program: &Path,
        arguments: &[&str],
        environment: Vec<(&'static str, String)>,
        directory: &Path,
        log: &Path,
    ) -> Result<Self, Error> {
        let failed = |error: io::Error| {
            Error::new(format!(
                "cannot start {} in {}: {error}",
                program.display(),
                directory.display()
            ))
        };
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(failed)?;
        let child = Command::new("/bin/sh")
            .args(["-c", WATCHDOG_SCRIPT, "sh"])
            .arg(directory)
            .arg(program)
            .args(arguments)
            .envs(environment)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Ok(Self {
            id: child.id(),
            child: Mutex::new(child),
        })
    }

    /// The server's process id.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Returns the exit status of the server if it has ended.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        self.with_child(|child| child.try_wait().ok().flatten())
    }

    /// Kills the server and its watchdog, and waits for the end of the server.
    pub(crate) fn kill(&self) {
        self.with_child(|child| {
            if let Ok(group) = i32::try_from(self.id)
                // The pipe is closed last. While it is open, the watchdog runs and the group is ours.
                && child.stdin.is_some()
            {
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            }
            let _ = child.wait();
            child.stdin = None;
        });
    }

    /// Sends a signal to the server only. After SIGSTOP, this function waits until the server is stopped.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Error> {
        let failed = |why: String| {
            Error::new(format!(
                "cannot send {signal} to the server with process id {}: {why}",
                self.id
            ))
        };
        self.with_child(|child| {
            let gone = child
                .try_wait()
                .map_err(|error| failed(error.to_string()))?;
            if let Some(status) = gone {
                return Err(failed(format!("it has ended ({status})")));
            }
            let id = i32::try_from(self.id).map_err(|error| failed(error.to_string()))?;
            kill(Pid::from_raw(id), signal).map_err(|error| failed(error.to_string()))
        })?;
        if signal == Signal::SIGSTOP {
            self.wait_until_stopped()?;
        }
        Ok(())
    }

    /// Waits until all threads are stopped: a thread that still runs may answer.
    fn wait_until_stopped(&self) -> Result<(), Error> {
        let what = format!("the server with process id {} stops", self.id);
        poll::until(&what, STOP_TIMEOUT, || {
            match threads(self.id).into_iter().find(|state| *state != 'T') {
                None => Condition::Ready(()),
                Some(state) => Condition::NotYet(format!("a thread is in state {state}")),
            }
        })
    }

    fn with_child<T>(&self, act: impl FnOnce(&mut Child) -> T) -> T {
        act(&mut self.child.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the states of a process's threads; empty on systems without `/proc`.
fn threads(process: u32) -> Vec<char> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    let state = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        // After the name, which may contain any character.
        stat.rsplit(')').next()?.trim_start().chars().next()
    };
    tasks.flatten().filter_map(state).collect()
}

/// Finds `program`: a path if it contains a slash, else a name on the `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    // Distributions install some servers in directories that are on the `PATH` of root only.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Returns the last lines of a log.
pub(crate) fn end_of_log(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
