//! Waits for the lock and announces its holder.

use std::time::Duration;

use tenure::{
    Acquisition, Error, ErrorKind, GuardAll, Lock, LockAll, name::LockName, request::Waiting,
};

use crate::{
    escape::quote,
    exit::{Failure, describe, print_message},
    view,
};

/// Returns the failure of a wait that `limit` has ended while the store was away. An error that
/// no retry can fix ended the wait itself, and stays as it is.
pub(super) fn failed(error: Error, name: &LockName, limit: Option<Duration>) -> Failure {
    let text = describe(&error);
    let what = match error.kind() {
        ErrorKind::Exhausted => "the store has nothing left for this client",
        _ => "the store did not answer",
    };
    let retryable = error.is_retryable();
    let mut failure = Failure::from(error);
    if let Some(limit) = limit.filter(|limit| retryable && !limit.is_zero()) {
        let name = quote(name.as_str());
        let limit = humantime::format_duration(limit);
        failure.message = Some(format!(
            "gave up waiting for {name} after {limit}: {what} ({text})"
        ));
    }
    failure
}

/// Acquires the locks within `limit`: `None` waits forever, and zero does not wait.
pub(super) async fn acquire(
    locks: &LockAll,
    limit: Option<Duration>,
    quiet: bool,
) -> Result<Acquisition<GuardAll>, Error> {
    if limit == Some(Duration::ZERO) {
        return locks.try_acquire().await;
    }
    let mut announced = None;
    let on_wait = |lock: &Lock, waiting: &Waiting| {
        if !quiet && announced.as_ref() != Some(lock.name()) {
            announced = Some(lock.name().clone());
            announce(lock, waiting);
        }
    };
    locks.acquire_observed(limit, on_wait).await
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
