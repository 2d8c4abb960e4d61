//! Waiting for the lock: the line that says for whom, and leaving the queue when interrupted.

use std::time::Duration;

use rustix::process::Signal;
use tenure::{
    Acquisition, Error, Guard, Lock,
    request::{Holder, Waiting},
};

use super::Timing;
use crate::{escape::quote, exit::print_message, signals::Listener, view};

/// What came of waiting.
#[derive(Debug)]
pub(super) enum Waited {
    /// The lock is ours.
    Acquired {
        /// The grant.
        guard: Guard,
        /// Whether it was queued for, so that the grant may have come by push.
        queued: bool,
    },
    /// Somebody else has it.
    Busy(Holder),
    /// A signal came first. The attempt is being taken out of the queue.
    Interrupted(Signal),
}

/// Waits for at most the budget of `timing`.
pub(super) async fn acquire(
    lock: &Lock,
    timing: &Timing,
    quiet: bool,
    signals: &mut Listener,
) -> Result<Waited, Error> {
    let mut queued = false;
    let acquiring = async {
        if timing.budget == Some(Duration::ZERO) {
            return lock.try_acquire().await;
        }
        lock.acquire_observed(timing.budget, |waiting| {
            if !queued && !quiet {
                announce(lock, waiting);
            }
            queued = true;
        })
        .await
    };
    let acquisition = tokio::select! {
        biased;
        signal = signals.ending() => return Ok(Waited::Interrupted(signal)),
        acquisition = acquiring => acquisition?,
    };
    Ok(match acquisition {
        Acquisition::Acquired(guard) => Waited::Acquired { guard, queued },
        Acquisition::Busy(holder) => Waited::Busy(holder),
        // There is no other kind yet; whatever it will be, the lock is not ours.
        _ => Waited::Busy(Holder::foreign()),
    })
}

fn announce(lock: &Lock, waiting: &Waiting) {
    let held = waiting.holder.as_ref().map(view::held_by);
    let name = quote(lock.name().as_str());
    let ahead = match waiting.ahead {
        Some(ahead) if ahead > 1 => format!(" ({} more ahead)", ahead - 1),
        _ => String::new(),
    };
    match held {
        Some(held) => print_message(&format!("waiting for {name}, {held}{ahead}")),
        None => print_message(&format!("waiting for {name}{ahead}")),
    }
}
