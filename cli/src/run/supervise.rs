//! Supervises the running command: sends new deadlines to the guardian, forwards signals to the
//! command, and reports a loss of the lock to both.

use std::time::Duration;

use nix::unistd::{getpgrp, getppid, getsid};
use rustix::process::{Pid, Signal, kill_current_process_group};
use tenure::{NotHeld, clock::Instant, loss::LossReason};

use super::{guardian_handle::GuardianHandle, held::Held, renewal_warning::RenewalWarning};
use crate::{
    exit::print_warning,
    guardian::protocol::{End, OnLost, Order, Report, nanos},
    process_group::{Liveness, ProcessGroup},
    signals::{Listener, name_of_signal},
    time,
};

/// How long the supervisor waits for the guardian to report the end of a command that must end.
/// After this time the supervisor kills the command itself, and after the same time again it stops
/// waiting.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the supervisor checks whether a killed command has ended.
const KILL_POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How often the supervisor checks whether a command has ended that could not be stopped.
const NOT_STOPPED_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How the supervision ended.
#[derive(Debug)]
pub(super) enum Finish {
    /// The command ended by itself while the lock was held.
    Ended(End),
    /// The guardian has ended; the supervisor killed the command.
    GuardianGone,
    /// The guardian ended before it reported whether it had started the command. A command may run
    /// that no process can find, so the lock must not be released.
    CommandUnknown,
    /// The lock was lost while the command ran.
    Lost {
        /// Why.
        reason: LossReason,
        /// How the command ended, if that was reported.
        end: Option<End>,
        /// Whether the command was stopped; false if `--on-lost ignore` let it run on.
        stopped: bool,
    },
    /// Renewals failed, and the command was stopped before the deadline.
    StoppedInTime {
        /// How the command ended.
        end: End,
    },
    /// The command could not be stopped.
    NotStopped {
        /// Why the lock was lost while the command ran; `None` if the command has ended since then,
        /// and the lock was held until its end.
        lost: Option<LossReason>,
        /// Why the command could not be stopped.
        why: String,
    },
    /// The command could not be started.
    NotStarted {
        /// 126 or 127.
        code: u8,
        /// Why.
        reason: String,
    },
}

/// Supervises the command until it has ended.
pub(super) async fn supervise(
    guard: &Held,
    mut guardian: GuardianHandle,
    signals: &mut Listener,
    on_lost: OnLost,
    kill_after: Duration,
) -> Finish {
    let mut supervision = Supervision {
        group: None,
        lost: None,
        force_at: Instant::FAR_FUTURE,
        forced: false,
    };
    let mut renewal_warning = RenewalWarning::default();
    loop {
        tokio::select! {
            biased;
            reason = guard.lost(), if supervision.lost.is_none() =>
                supervision.on_lost(reason, on_lost, guard, &guardian),
            report = guardian.recv() => match report {
                Some(Report::Started(id)) => {
                    supervision.group = Pid::from_raw(id).map(ProcessGroup::new);
                }
                Some(Report::NotStarted { code, reason }) => {
                    return Finish::NotStarted { code, reason };
                }
                Some(Report::Stopped { suspend, needs_terminal }) => {
                    if needs_terminal {
                        print_warning(
                            "the command is stopped because it uses the terminal, which `tenure` cannot \
                             give to it: the session of the terminal is outside of this pid namespace",
                        );
                    }
                    suspend_with_it(suspend, &guardian);
                }
                Some(Report::NotPermitted(signal)) => supervision.warn_not_permitted(signal, guard),
                Some(Report::Finished(end)) => {
                    return match supervision.group {
                        Some(group) if end.still_runs => {
                            supervision.not_stopped(group, guard, signals).await
                        }
                        _ => supervision.finish(end, guard, on_lost),
                    };
                }
                None => {
                    let Some(group) = supervision.group else {
                        return supervision.lost.map_or(Finish::CommandUnknown, lost_and_stopped);
                    };
                    if !kill(group).await {
                        return supervision.not_stopped(group, guard, signals).await;
                    }
                    return supervision.lost.map_or(Finish::GuardianGone, lost_and_stopped);
                }
            },
            () = guard.deadline_changed(), if supervision.lost.is_none() => {
                if guard.phase().is_live() {
                    guardian.send(Order::Deadline(nanos(guard.valid_until())));
                }
                renewal_warning.update(guard, kill_after);
            }
            () = time::sleep_until(renewal_warning.due(guard)), if supervision.lost.is_none() =>
                renewal_warning.update(guard, kill_after),
            signal = signals.next() => {
                guardian.send(if signal == Signal::CONT {
                    Order::Resume
                } else {
                    Order::Signal(signal.as_raw())
                });
            }
            () = time::sleep_until(supervision.force_at) => {
                if supervision.forced {
                    return lost_and_stopped(supervision.lost.unwrap_or(LossReason::Expired));
                }
                if let Some(group) = supervision.group
                    && !kill(group).await
                {
                    return supervision.not_stopped(group, guard, signals).await;
                }
                supervision.forced = true;
                supervision.force_at = time::now() + REPORT_TIMEOUT;
            }
        }
    }
}

struct Supervision {
    group: Option<ProcessGroup>,
    lost: Option<LossReason>,
    /// When the supervisor kills the command instead of the guardian.
    force_at: Instant,
    forced: bool,
}

impl Supervision {
    fn on_lost(
        &mut self,
        reason: LossReason,
        on_lost: OnLost,
        guard: &Held,
        guardian: &GuardianHandle,
    ) {
        self.lost = Some(reason);
        let now = time::now();
        // The policy applies to early evidence of a loss. At the deadline itself the command has
        // had its time, and the guardian kills the command without an order.
        let policy = if now >= guard.valid_until() {
            OnLost::Kill
        } else {
            on_lost
        };
        guardian.send(Order::Lost(policy));
        match policy {
            OnLost::Ignore => {}
            OnLost::Kill => self.force_at = now + REPORT_TIMEOUT,
            OnLost::Term => self.force_at = guard.valid_until() + REPORT_TIMEOUT,
        }
    }

    fn finish(&self, end: End, guard: &Held, on_lost: OnLost) -> Finish {
        let lost = self.lost.or_else(|| match guard.check() {
            Err(NotHeld::Lost(reason)) => Some(reason),
            _ => None,
        });
        match lost {
            // The guardian acts before the deadline, so the lock may still have been held.
            None if end.by_guardian => Finish::StoppedInTime { end },
            None => Finish::Ended(end),
            Some(reason) => {
                let stopped = end.by_guardian || on_lost != OnLost::Ignore;
                Finish::Lost {
                    reason,
                    end: Some(end),
                    stopped,
                }
            }
        }
    }

    fn warn_not_permitted(&self, signal: i32, guard: &Held) {
        let name = guard.names();
        let signal = name_of_signal(signal);
        let why = self
            .group
            .map_or_else(String::new, ProcessGroup::why_not_stopped);
        print_warning(&format!(
            "{signal} did not reach the whole command: {why}; lock {name} is held while the command runs"
        ));
    }

    /// Handles a command that could not be stopped. Holds the lock until the command has ended or
    /// the lock is lost: the exclusion lasts as long as possible.
    async fn not_stopped(
        &self,
        group: ProcessGroup,
        guard: &Held,
        signals: &mut Listener,
    ) -> Finish {
        let why = group.why_not_stopped();
        if self.lost.is_some() {
            return Finish::NotStopped {
                lost: self.lost,
                why,
            };
        }
        if guard.check().is_ok() {
            let name = guard.names();
            print_warning(&format!(
                "the command could not be stopped: {why}; lock {name} is held until the command ends"
            ));
        }
        loop {
            tokio::select! {
                biased;
                reason = guard.lost() => {
                    // The command may have ended, or may accept KILL now.
                    return if kill(group).await {
                        lost_and_stopped(reason)
                    } else {
                        Finish::NotStopped { lost: Some(reason), why: group.why_not_stopped() }
                    };
                }
                signal = signals.next() => {
                    if !group.signal(signal) {
                        self.warn_not_permitted(signal.as_raw(), guard);
                    }
                }
                () = tokio::time::sleep(NOT_STOPPED_POLL_INTERVAL) => {
                    if matches!(group.liveness(), Liveness::Ended | Liveness::Unknown) {
                        return Finish::NotStopped { lost: None, why };
                    }
                    // A process that has become another user can return to its first user.
                    group.signal(Signal::KILL);
                }
            }
        }
    }
}

/// Kills the command without the guardian. Returns false if the command still runs after a time.
async fn kill(group: ProcessGroup) -> bool {
    // The command must have ended before the lock is released.
    let begin = time::now();
    loop {
        if let Some(ended) = group.has_ended_after_kill(time::now().since(begin)) {
            return ended;
        }
        tokio::time::sleep(KILL_POLL_INTERVAL).await;
    }
}

const fn lost_and_stopped(reason: LossReason) -> Finish {
    Finish::Lost {
        reason,
        end: None,
        stopped: true,
    }
}

/// Handles a stopped command. If the terminal stopped it, this process stops its own group too, as
/// the shell expects; the guardian continues to watch the deadline.
fn suspend_with_it(suspend: bool, guardian: &GuardianHandle) {
    if !suspend {
        return;
    }
    // Without a parent shell that could continue it, this process would stay stopped.
    let session = getsid(None).ok();
    // The parent has the number 0 if it is outside of this pid namespace.
    let parent = Some(getppid()).filter(|parent| parent.as_raw() != 0);
    let above = parent.and_then(|parent| getsid(Some(parent)).ok());
    if session.is_none() || session != above || session == Some(getpgrp()) {
        guardian.send(Order::Resume);
        return;
    }
    let _ = kill_current_process_group(Signal::STOP);
}
