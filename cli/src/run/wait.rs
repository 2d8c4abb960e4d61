//! Waits for the lock and announces its holder.

use std::time::Duration;

use tenure::{Acquisition, Error, Lock, request::Waiting};

use crate::{escape::quote, exit::print_message, view};

/// Acquires the lock within `limit`: `None` waits forever, and zero does not wait.
pub(super) async fn acquire(
    lock: &Lock,
    limit: Option<Duration>,
    quiet: bool,
) -> Result<Acquisition, Error> {
    if limit == Some(Duration::ZERO) {
        return lock.try_acquire().await;
    }
    let mut announced = quiet;
    lock.acquire_observed(limit, |waiting| {
        if !announced {
            announced = true;
            announce(lock, waiting);
        }
    })
    .await
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
