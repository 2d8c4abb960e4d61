//! One task, one lock that nobody else wants.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{Contender, Failure, Spread, now};

/// How long each turn (acquire and release) takes, one after the other for `span`; at least one.
///
/// # Errors
///
/// The failure of the first turn that fails.
///
/// # Cancel safety
///
/// Cancelling it ends the task, and leaves the lock to the contender's own way of giving up.
pub async fn alone<C: Contender + ?Sized + 'static>(
    contender: &Arc<C>,
    lock: &str,
    span: Duration,
) -> Result<Spread, Failure> {
    let (contender, lock) = (Arc::clone(contender), lock.to_owned());
    // A task as others are, and not on the thread that waits for the runtime: how that one is woken
    // differs from run to run, by a tenth of what Redis takes.
    let mut task = JoinSet::new();
    task.spawn(async move {
        let begin = now();
        let mut times = Vec::new();
        while times.is_empty() || now().since(begin) < span {
            let start = now();
            contender.turn(&lock, &|| ()).await?;
            times.push(now().since(start));
        }
        Ok(Spread::new(times))
    });
    match task.join_next().await {
        Some(outcome) => outcome?,
        None => Ok(Spread::default()),
    }
}
