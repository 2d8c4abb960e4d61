//! What each contender does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tenure_core::clock::{Clock, Instant, SystemClock};
use tokio::task::JoinSet;

use crate::contender::{Contender, Failure};

fn now() -> Instant {
    SystemClock.now()
}

/// The median of one turn after the other, for that long.
pub(crate) async fn alone(contender: &dyn Contender, span: Duration) -> Result<Duration, Failure> {
    let begin = now();
    let mut times = Vec::new();
    while times.is_empty() || now().since(begin) < span {
        let start = now();
        contender.turn("alone").await?;
        times.push(now().since(start));
    }
    times.sort();
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}

/// Turns in a second of so many tasks that never meet.
pub(crate) async fn many(
    contender: &Arc<dyn Contender>,
    tasks: usize,
    span: Duration,
) -> Result<f64, Failure> {
    let locks = (0..tasks).map(|number| format!("own-{number}"));
    all(contender, locks, span, false)
        .await
        .map(|(rate, _)| rate)
}

/// How often in a second the lock passed from one to another of so many tasks that all want it, and
/// the longest that one took to get it. A task that takes the lock again that it has just given back
/// has handed it over to nobody.
pub(crate) async fn one(
    contender: &Arc<dyn Contender>,
    tasks: usize,
    span: Duration,
) -> Result<(f64, Duration), Failure> {
    let locks = (0..tasks).map(|_| "one".to_owned());
    all(contender, locks, span, true).await
}

async fn all(
    contender: &Arc<dyn Contender>,
    locks: impl Iterator<Item = String>,
    span: Duration,
    passed_on: bool,
) -> Result<(f64, Duration), Failure> {
    let start = now();
    let last = Arc::new(AtomicUsize::new(usize::MAX));
    let mut tasks = JoinSet::new();
    for (number, lock) in locks.enumerate() {
        let contender = Arc::clone(contender);
        let last = Arc::clone(&last);
        tasks.spawn(async move {
            let (mut turns, mut longest) = (0_u32, Duration::ZERO);
            while now().since(start) < span {
                let asked = now();
                contender.turn(&lock).await?;
                longest = longest.max(now().since(asked));
                turns += u32::from(!passed_on || last.swap(number, Ordering::Relaxed) != number);
            }
            Ok::<_, Failure>((turns, longest))
        });
    }
    let (mut turns, mut longest) = (0, Duration::ZERO);
    while let Some(outcome) = tasks.join_next().await {
        let (more, waited) = outcome??;
        turns += more;
        longest = longest.max(waited);
    }
    Ok((f64::from(turns) / now().since(start).as_secs_f64(), longest))
}
