//! One task that takes a lock which no other task wants.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{Failure, Implementation, Percentiles, now};

/// Acquires and releases a lock again and again for `span`, at least once. Returns the durations of
/// all pairs.
///
/// # Errors
///
/// Returns the first failure.
///
/// # Cancel safety
///
/// Cancelling ends the task. The implementation decides how it gives up the lock.
pub async fn uncontended<I: Implementation + ?Sized + 'static>(
    implementation: &Arc<I>,
    lock: &str,
    span: Duration,
) -> Result<Percentiles, Failure> {
    let (implementation, lock) = (Arc::clone(implementation), lock.to_owned());
    // The loop runs in a task of the runtime, as the other loads do. On the thread that blocks on the
    // runtime, the time of a wake-up differs from run to run, by a tenth of a request to Redis.
    let mut task = JoinSet::new();
    task.spawn(async move {
        let begin = now();
        let mut times = Vec::new();
        while times.is_empty() || now().since(begin) < span {
            let start = now();
            implementation.acquire_and_release(&lock, &|| ()).await?;
            times.push(now().since(start));
        }
        Ok(Percentiles::new(times))
    });
    match task.join_next().await {
        Some(outcome) => outcome?,
        None => Ok(Percentiles::default()),
    }
}
