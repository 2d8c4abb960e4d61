//! Many tasks that never meet.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{Contender, Failure, now};

/// Turns in a second of so many tasks with a lock each, over `span`.
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
    let start = now();
    let mut all = JoinSet::new();
    for number in 0..tasks {
        let contender = Arc::clone(contender);
        all.spawn(async move {
            let lock = format!("own-{number}");
            let mut turns = 0_u32;
            while now().since(start) < span {
                contender.turn(&lock, &|| ()).await?;
                turns += 1;
            }
            Ok::<_, Failure>(turns)
        });
    }
    let mut turns = 0.0;
    while let Some(outcome) = all.join_next().await {
        turns += f64::from(outcome??);
    }
    Ok(turns / now().since(start).as_secs_f64())
}
