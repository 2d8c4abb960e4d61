//! A process group: sends signals to it, and finds out whether its processes have ended.

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process_group, test_kill_process, test_kill_process_group},
};

/// How long a process that this process may not signal has to end with the rest of its group.
const NOT_PERMITTED_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a killed process may take to end. The kernel needs time to free a large process.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A process group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessGroup(Pid);

/// The state of a process group, as far as this process can see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// All processes have ended; some may be zombies.
    Ended,
    /// A process runs, and this process may signal all processes that run.
    Running,
    /// A process runs that this process may not signal: it has become another user.
    NotPermitted,
    /// This process may signal a process of the group, and `/proc` does not show whether that
    /// process is a zombie.
    Unknown,
}

/// A process of the group that runs.
struct Member {
    pid: Pid,
    /// Whether this process may signal it.
    permitted: bool,
}

impl ProcessGroup {
    /// Returns the group with this id.
    pub(crate) const fn new(id: Pid) -> Self {
        Self(id)
    }

    /// Returns the group's id.
    pub(crate) const fn id(self) -> Pid {
        self.0
    }

    /// Sends a signal to every process of the group that accepts it. Returns false if no process
    /// accepted it although the group is not empty.
    ///
    /// The kernel reports success if one process accepts the signal. [`liveness`](Self::liveness)
    /// shows whether all do.
    pub(crate) fn signal(self, signal: Signal) -> bool {
        matches!(
            kill_process_group(self.0, signal),
            Ok(()) | Err(Errno::SRCH)
        )
    }

    /// Returns whether processes of the group run.
    pub(crate) fn liveness(self) -> Liveness {
        let permitted = match test_kill_process_group(self.0) {
            Ok(()) => true,
            Err(Errno::SRCH) => return Liveness::Ended,
            Err(_) => false,
        };
        match self.members() {
            Some(members) if members.iter().any(|member| !member.permitted) => {
                Liveness::NotPermitted
            }
            Some(members) if members.is_empty() => Liveness::Ended,
            Some(_) => Liveness::Running,
            None if permitted => Liveness::Unknown,
            None => Liveness::NotPermitted,
        }
    }

    /// Kills the group unless it has ended, and returns whether it has ended. `elapsed` is the time
    /// since the group was killed for the first time. Returns `None` if the caller should ask again.
    ///
    /// A process that has become another user can return to its first user, so KILL is repeated.
    pub(crate) fn has_ended_after_kill(self, elapsed: Duration) -> Option<bool> {
        let (ended, timeout) = match self.liveness() {
            // Another group may already have the number of this one.
            Liveness::Ended => return Some(true),
            Liveness::Running => (false, KILL_TIMEOUT),
            Liveness::NotPermitted => (false, NOT_PERMITTED_TIMEOUT),
            // All processes have received KILL. No process may reap the zombies.
            Liveness::Unknown => (true, NOT_PERMITTED_TIMEOUT),
        };
        self.signal(Signal::KILL);
        (elapsed >= timeout).then_some(ended)
    }

    /// Returns why the group still runs after KILL, as the middle of a sentence.
    pub(crate) fn why_not_stopped(self) -> String {
        let mut members = self.members().unwrap_or_default();
        members.sort_by_key(|member| member.permitted);
        match members.first() {
            Some(Member { pid, permitted }) if *permitted => {
                format!("process {pid} does not end on KILL")
            }
            Some(Member { pid, .. }) => {
                let user = fs::metadata(format!("/proc/{pid}")).map_or_else(
                    |_| "another user".to_owned(),
                    |of| format!("user {}", of.uid()),
                );
                format!("no permission to signal process {pid} of {user}")
            }
            None => format!("no permission to signal process group {}", self.0),
        }
    }

    /// Returns the processes that run; `None` if `/proc` does not show them.
    fn members(self) -> Option<Vec<Member>> {
        if !proc_shows_all() {
            return None;
        }
        let mut members = Vec::new();
        let mut zombies = false;
        for entry in fs::read_dir("/proc").ok()?.flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok());
            let Some(pid) = pid.and_then(Pid::from_raw) else {
                continue;
            };
            // A process whose file cannot be read has ended.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            match is_alive(&stat, self.0) {
                Some(true) => members.push(Member {
                    pid,
                    permitted: matches!(test_kill_process(pid), Ok(()) | Err(Errno::SRCH)),
                }),
                Some(false) => zombies = true,
                None => {}
            }
        }
        // A process that forks and ends during this loop can evade it, so a group with no visible
        // process counts as empty only if the kernel agrees.
        let empty = members.is_empty() && !zombies;
        (!empty || test_kill_process_group(self.0) == Err(Errno::SRCH)).then_some(members)
    }
}

/// Returns whether the process with this `stat` file runs; `None` if it is not in the group.
fn is_alive(stat: &str, group: Pid) -> Option<bool> {
    // The name of the program, in parentheses, may contain spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if fields.nth(1)?.parse() != Ok(group.as_raw_nonzero().get()) {
        return None;
    }
    // A process whose first thread has ended has the state of a zombie while other threads run.
    let threads: u64 = fields.nth(14)?.parse().ok()?;
    Some(!matches!(state, "Z" | "X") || threads > 1)
}

/// Returns whether `/proc` shows all processes, with the numbers by which this process knows them.
///
/// A `/proc` of another pid namespace shows other numbers. The mount option `hidepid` hides the
/// processes of other users.
fn proc_shows_all() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // One number for each namespace from that of `/proc` to that of this process.
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().count() == 1)
        && fs::read("/proc/1/stat").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_file_shows_group_and_state() {
        let group = Pid::from_raw(7).unwrap();
        let stat = |state: &str, group: u32, threads: u32| {
            format!(
                "12 (a) b) c) {state} 1 {group} 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 {threads} 0 99 0 0"
            )
        };
        assert_eq!(is_alive(&stat("S", 7, 1), group), Some(true));
        assert_eq!(is_alive(&stat("Z", 7, 1), group), Some(false));
        assert_eq!(is_alive(&stat("Z", 7, 2), group), Some(true));
        assert_eq!(is_alive(&stat("S", 8, 1), group), None);
        assert_eq!(is_alive("", group), None);
    }

    #[test]
    fn group_of_this_process_runs() {
        let group = ProcessGroup::new(rustix::process::getpgrp());
        assert!(matches!(
            group.liveness(),
            Liveness::Running | Liveness::Unknown
        ));
    }
}
