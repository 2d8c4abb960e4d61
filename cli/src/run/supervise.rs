//! Supervises the running command: sends new deadlines to the guardian, forwards signals to the
//! command, and reports a loss of the lock to both.

use std::time::Duration;

use rustix::process::{
    Pid, Signal, getpgrp, getppid, getsid, kill_current_process_group, kill_process_group,
    test_kill_process_group,
};
use tenure::{Guard, NotHeld, clock::Instant, loss::LossReason};

use super::{guardian_handle::GuardianHandle, renewal_warning::RenewalWarning};
use crate::{
    guardian::protocol::{End, OnLost, Order, Report, nanos},
    signals::Listener,
    time,
};

/// How long the supervisor waits for the guardian to report the end of a command that must end.
/// After this time the supervisor kills the command itself, and after the same time again it stops
/// waiting.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

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
    guard: &Guard,
    mut guardian: GuardianHandle,
    signals: &mut Listener,
    on_lost: OnLost,
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
                Some(Report::Started(id)) => supervision.group = Pid::from_raw(id),
                Some(Report::NotStarted { code, reason }) => {
                    return Finish::NotStarted { code, reason };
                }
                Some(Report::Stopped { suspend }) => suspend_with_it(suspend, &guardian),
                Some(Report::Finished(end)) => return supervision.finish(end, guard, on_lost),
                None => {
                    supervision.kill().await;
                    return match supervision.lost {
                        Some(reason) => Finish::Lost { reason, end: None, stopped: true },
                        None if supervision.group.is_none() => Finish::CommandUnknown,
                        None => Finish::GuardianGone,
                    };
                }
            },
            () = guard.deadline_changed(), if supervision.lost.is_none() => {
                if guard.phase().is_live() {
                    guardian.send(Order::Deadline(nanos(guard.valid_until())));
                }
                renewal_warning.update(guard);
            }
            () = time::sleep_until(renewal_warning.due(guard)), if supervision.lost.is_none() =>
                renewal_warning.update(guard),
            signal = signals.next() => {
                guardian.send(if signal == Signal::CONT {
                    Order::Resume
                } else {
                    Order::Signal(signal.as_raw())
                });
            }
            () = time::sleep_until(supervision.force_at) => {
                if supervision.forced {
                    let reason = supervision.lost.unwrap_or(LossReason::Expired);
                    return Finish::Lost { reason, end: None, stopped: true };
                }
                supervision.kill().await;
                supervision.forced = true;
                supervision.force_at = time::now() + REPORT_TIMEOUT;
            }
        }
    }
}

struct Supervision {
    group: Option<Pid>,
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
        guard: &Guard,
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

    fn finish(&self, end: End, guard: &Guard, on_lost: OnLost) -> Finish {
        let lost = self.lost.or_else(|| match guard.check() {
            Err(NotHeld::Lost(reason)) => Some(reason),
            _ => None,
        });
        match lost {
            // The guardian acts before the deadline, so the lock may still have been held.
            None if end.by_guardian => Finish::Lost {
                reason: LossReason::Expired,
                end: Some(end),
                stopped: true,
            },
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

    /// Kills the command without the guardian.
    async fn kill(&self) {
        let Some(group) = self.group else {
            return;
        };
        let _ = kill_process_group(group, Signal::KILL);
        // The command must have ended before the lock is released. The wait is bounded: no process
        // may reap the command.
        let limit = time::now() + REPORT_TIMEOUT;
        while test_kill_process_group(group).is_ok() && time::now() < limit {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
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
    let above = getppid().and_then(|parent| getsid(Some(parent)).ok());
    if session.is_none() || session != above || session == Some(getpgrp()) {
        guardian.send(Order::Resume);
        return;
    }
    let _ = kill_current_process_group(Signal::STOP);
}
