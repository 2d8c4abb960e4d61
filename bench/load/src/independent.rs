//! Many tasks, each with a lock of its own.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{Failure, Implementation, now};

/// Lets `tasks` tasks acquire and release a lock of their own for `span`. Returns the pairs of
/// acquire and release in a second, of all tasks together.
///
/// Each task first completes one pair that is not counted, because a store may have to create the
/// entry of a new lock.
///
/// # Errors
///
/// Returns the first failure.
///
/// # Cancel safety
///
/// Cancelling ends the tasks. The implementation decides how it gives up their locks.
pub async fn independent<I: Implementation + ?Sized + 'static>(
    implementation: &Arc<I>,
    tasks: usize,
    span: Duration,
) -> Result<f64, Failure> {
    count_pairs(implementation, tasks, Duration::ZERO).await?;
    let start = now();
    let pairs = count_pairs(implementation, tasks, span).await?;
    Ok(f64::from(pairs) / now().since(start).as_secs_f64())
}

/// Returns the name of the lock of a task.
#[must_use]
pub fn independent_lock(number: usize) -> String {
    format!("own-{number}")
}

/// Returns the number of pairs of all tasks; each task completes at least one.
async fn count_pairs<I: Implementation + ?Sized + 'static>(
    implementation: &Arc<I>,
    tasks: usize,
    span: Duration,
) -> Result<u32, Failure> {
    let start = now();
    let mut all = JoinSet::new();
    for number in 0..tasks {
        let implementation = Arc::clone(implementation);
        all.spawn(async move {
            let lock = independent_lock(number);
            let mut pairs = 0_u32;
            while pairs == 0 || now().since(start) < span {
                implementation.acquire_and_release(&lock, &|| ()).await?;
                pairs += 1;
            }
            Ok::<_, Failure>(pairs)
        });
    }
    let mut pairs = 0;
    while let Some(outcome) = all.join_next().await {
        pairs += outcome??;
    }
    Ok(pairs)
}
