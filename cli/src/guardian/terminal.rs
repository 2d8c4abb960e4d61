//! The terminal's job control: which process group may read from it.

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
    /// The controlling terminal, if there is one.
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

    /// Whether the terminal belongs to that group.
    pub(super) fn is_with(&self, group: Pid) -> bool {
        termios::tcgetpgrp(&self.tty).is_ok_and(|present| present == group)
    }

    /// Gives the terminal to that group.
    pub(super) fn give_to(&self, group: Pid) {
        in_background(|| {
            // If it fails the group has ended, or the terminal has been hung up.
            let _ = termios::tcsetpgrp(self.tty.as_fd(), group);
        });
    }

    /// Gives the terminal back to the supervisor, if the group has it.
    pub(super) fn take_from(&self, group: Pid) {
        if self.is_with(group) {
            self.give_to(self.supervisor);
        }
    }
}

/// Does something to the terminal from outside of its foreground group, for which the kernel would
/// otherwise stop this process.
pub(super) fn in_background(action: impl FnOnce()) {
    let mut ttou = SigSet::empty();
    ttou.add(Signal::SIGTTOU);
    // Blocked for this moment alone: the command would inherit it.
    let blocked = ttou.thread_block().is_ok();
    action();
    if blocked {
        let _ = ttou.thread_unblock();
    }
}
