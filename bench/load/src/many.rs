//! Many tasks that never meet.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{Contender, Failure, now};

/// Turns in a second of so many tasks with a lock each, over `span`. Each has had a turn before that is not
/// counted, as a store may have to make room for a lock that it does not know.
///
/// # Errors
///
/// The failure of the first turn that fails.
///
/// # Cancel safety
///
/// Cancelling it ends the tasks, and leaves their locks to the contender's own way of giving up.
pub async fn many<C: Contender + ?Sized + 'static>(
    contender: &Arc<C>,
    tasks: usize,
    span: Duration,
) -> Result<f64, Failure> {
    turns(contender, tasks, Duration::ZERO).await?;
    let start = now();
    let turns = turns(contender, tasks, span).await?;
    Ok(f64::from(turns) / now().since(start).as_secs_f64())
}

/// The turns of all tasks together, at least one of each.
async fn turns<C: Contender + ?Sized + 'static>(
    contender: &Arc<C>,
    tasks: usize,
    span: Duration,
) -> Result<u32, Failure> {
    let start = now();
    let mut all = JoinSet::new();
    for number in 0..tasks {
        let contender = Arc::clone(contender);
        all.spawn(async move {
            let lock = format!("own-{number}");
            let mut turns = 0_u32;
            while turns == 0 || now().since(start) < span {
                contender.turn(&lock, &|| ()).await?;
                turns += 1;
            }
            Ok::<_, Failure>(turns)
        });
    }
    let mut turns = 0;
    while let Some(outcome) = all.join_next().await {
        turns += outcome??;
    }
    Ok(turns)
}
