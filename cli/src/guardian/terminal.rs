//! Job control of the terminal: which process group is in the foreground.

use std::{fs::File, os::fd::AsFd};

use nix::sys::signal::{SigSet, Signal};
use rustix::{process::Pid, termios};

/// The controlling terminal, shared by the supervisor's process group and the command's.
#[derive(Debug)]
pub(super) struct Terminal {
    tty: File,
    supervisor: Pid,
}

impl Terminal {
    /// Opens the controlling terminal, if there is one.
    pub(super) fn open(supervisor: Pid) -> Option<Self> {
        let tty = File::options()
            .read(true)
            .write(true)
            .open("/dev/tty")
            .ok()?;
        Some(Self { tty, supervisor })
    }

    /// Whether the terminal belongs to the supervisor's group: the shell runs it in the
    /// foreground, and the command has not been given the terminal.
    pub(super) fn is_with_supervisor(&self) -> bool {
        termios::tcgetpgrp(&self.tty).is_ok_and(|group| group == self.supervisor)
    }

    /// Returns whether the terminal belongs to `group`.
    pub(super) fn is_with(&self, group: Pid) -> bool {
        termios::tcgetpgrp(&self.tty).is_ok_and(|present| present == group)
    }

    /// Gives the terminal to `group`.
    pub(super) fn give_to(&self, group: Pid) {
        in_background(|| {
            // A failure means that the group has ended or the terminal has been hung up.
            let _ = termios::tcsetpgrp(self.tty.as_fd(), group);
        });
    }

    /// Returns the terminal to the supervisor if it belongs to `group`.
    pub(super) fn take_from(&self, group: Pid) {
        if self.is_with(group) {
            self.give_to(self.supervisor);
        }
    }
}

/// Runs an action on the terminal from outside of its foreground group. Without this function the
/// kernel would stop this process.
pub(super) fn in_background(action: impl FnOnce()) {
    let mut ttou = SigSet::empty();
    ttou.add(Signal::SIGTTOU);
    // The signal is blocked only during the action, because the command would inherit the mask.
    let blocked = ttou.thread_block().is_ok();
    action();
    if blocked {
        let _ = ttou.thread_unblock();
    }
}
