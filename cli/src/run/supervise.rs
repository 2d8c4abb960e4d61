//! While the command runs: new deadlines to the guardian, signals to the command, losses to both.

use std::time::Duration;

use rustix::process::{
    Pid, Signal, getpgrp, getppid, getsid, kill_current_process_group, kill_process_group,
    test_kill_process_group,
};
use tenure::{Guard, NotHeld, clock::Instant, loss::LossReason};

use super::{doubt::Doubt, link::Link};
use crate::{
    guardian::protocol::{End, OnLost, Order, Report, nanos},
    signals::Listener,
    time,
};

/// For how long the guardian may fail to report the end of a command that must end, before the
/// supervisor kills the command itself, and again before it stops waiting for the report.
const PATIENCE: Duration = Duration::from_secs(1);

/// How it went.
#[derive(Debug)]
pub(super) enum Finish {
    /// The command ended by itself, under the lock.
    Ended(End),
    /// The guardian is gone; the command was killed.
    GuardianGone,
    /// The guardian is gone before it said whether there is a command. There may be one that nobody
    /// can find, so the lock must not be given back.
    CommandUnknown,
    /// The lock was lost while the command ran.
    Lost {
        /// Why.
        reason: LossReason,
        /// How the command ended, if that was reported.
        end: Option<End>,
        /// Whether it was stopped, rather than left alone as was asked for.
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

/// Watches over the command until it has ended.
pub(super) async fn supervise(
    guard: &Guard,
    mut link: Link,
    signals: &mut Listener,
    on_lost: OnLost,
) -> Finish {
    let mut watch = Watch {
        group: None,
        lost: None,
        force_at: Instant::FAR_FUTURE,
        forced: false,
    };
    let mut doubt = Doubt::default();
    loop {
        tokio::select! {
            biased;
            reason = guard.lost(), if watch.lost.is_none() => watch.on_lost(reason, on_lost, guard, &link),
            report = link.hear() => match report {
                Some(Report::Started(id)) => watch.group = Pid::from_raw(id),
                Some(Report::NotStarted { code, reason }) => {
                    return Finish::NotStarted { code, reason };
                }
                Some(Report::Stopped { suspend }) => suspend_with_it(suspend, &link),
                Some(Report::Finished(end)) => return watch.finish(end, guard, on_lost),
                None => {
                    watch.kill().await;
                    return match watch.lost {
                        Some(reason) => Finish::Lost { reason, end: None, stopped: true },
                        None if watch.group.is_none() => Finish::CommandUnknown,
                        None => Finish::GuardianGone,
                    };
                }
            },
            () = guard.deadline_changed(), if watch.lost.is_none() => {
                if guard.phase().is_live() {
                    link.tell(Order::Deadline(nanos(guard.valid_until())));
                }
                doubt.look(guard);
            }
            () = time::sleep_until(doubt.due(guard)), if watch.lost.is_none() => doubt.look(guard),
            signal = signals.next() => {
                link.tell(if signal == Signal::CONT {
                    Order::Resume
                } else {
                    Order::Signal(signal.as_raw())
                });
            }
            () = time::sleep_until(watch.force_at) => {
                if watch.forced {
                    let reason = watch.lost.unwrap_or(LossReason::Expired);
                    return Finish::Lost { reason, end: None, stopped: true };
                }
                watch.kill().await;
                watch.forced = true;
                watch.force_at = time::now() + PATIENCE;
            }
        }
    }
}

struct Watch {
    group: Option<Pid>,
    lost: Option<LossReason>,
    /// When to do what the guardian should have done.
    force_at: Instant,
    forced: bool,
}

impl Watch {
    fn on_lost(&mut self, reason: LossReason, on_lost: OnLost, guard: &Guard, link: &Link) {
        self.lost = Some(reason);
        let now = time::now();
        // What may be ignored or done gently is evidence. At the deadline itself the command has
        // had its time, and the guardian kills it without being told.
        let policy = if now >= guard.valid_until() {
            OnLost::Kill
        } else {
            on_lost
        };
        link.tell(Order::Lost(policy));
        match policy {
            OnLost::Ignore => {}
            OnLost::Kill => self.force_at = now + PATIENCE,
            OnLost::Term => self.force_at = guard.valid_until() + PATIENCE,
        }
    }

    fn finish(&self, end: End, guard: &Guard, on_lost: OnLost) -> Finish {
        let lost = self.lost.or_else(|| match guard.check() {
            Err(NotHeld::Lost(reason)) => Some(reason),
            _ => None,
        });
        let end_of = Some(end);
        match lost {
            // The guardian acts before the deadline: it may still have been held.
            None if end.ended => Finish::Lost {
                reason: LossReason::Expired,
                end: end_of,
                stopped: true,
            },
            None => Finish::Ended(end),
            Some(reason) => {
                let stopped = end.ended || on_lost != OnLost::Ignore;
                Finish::Lost {
                    reason,
                    end: end_of,
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
        // It must be gone before the lock is given back. One that nobody reaps is not waited for.
        let limit = time::now() + PATIENCE;
        while test_kill_process_group(group).is_ok() && time::now() < limit {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The command was stopped. If it was from the terminal, this process stops too, and with it its
/// group, as the shell expects; the guardian goes on watching the deadline.
fn suspend_with_it(suspend: bool, link: &Link) {
    if !suspend {
        return;
    }
    // Without a shell above that could continue it, it would stop for good.
    let session = getsid(None).ok();
    let above = getppid().and_then(|parent| getsid(Some(parent)).ok());
    if session.is_none() || session != above || session == Some(getpgrp()) {
        link.tell(Order::Resume);
        return;
    }
    let _ = kill_current_process_group(Signal::STOP);
}
