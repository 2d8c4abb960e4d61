//! Waits for the lock: announces the holder, and leaves the queue on a signal.

use std::time::Duration;

use rustix::process::Signal;
use tenure::{
    Acquisition, Error, Guard, Lock,
    request::{Holder, Waiting},
};

use super::Timing;
use crate::{escape::quote, exit::print_message, signals::Listener, view};

/// The outcome of waiting.
#[derive(Debug)]
pub(super) enum Waited {
    /// This run holds the lock.
    Acquired {
        /// The grant.
        guard: Guard,
        /// Whether the run was queued, so that the grant may have come by push.
        queued: bool,
    },
    /// Another client holds the lock.
    Busy(Holder),
    /// A signal arrived first. The client is removing the attempt from the queue.
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
        // No other variant exists yet; in any other case this run does not hold the lock.
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
