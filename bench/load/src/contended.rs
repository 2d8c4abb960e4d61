//! One lock that many tasks want, each with its own client or all with one client.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tenure_core::clock::Instant;
use tokio::task::JoinSet;

use crate::{Failure, Implementation, Percentiles, now};

/// The result of a load with contention.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Contention {
    /// Hand-overs in a second. A task that acquires the lock twice in a row hands it over to no other
    /// task, so this does not count.
    pub rate: f64,
    /// Pairs of acquire and release in a second. Unlike hand-overs, they also count what tasks do that hold
    /// the lock together.
    pub pairs: f64,
    /// The durations of the hand-overs: from the grant of one task, which releases at once, to the
    /// grant of another task.
    pub hand_over: Percentiles,
    /// The durations of all pairs of acquire and release, including the wait.
    pub waits: Percentiles,
}

impl Contention {
    /// Creates the result from the hand-overs and the waits of all tasks, and the duration of the load.
    pub fn new(hand_overs: Vec<Duration>, waits: Vec<Duration>, took: Duration) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let per_second = |count: usize| count as f64 / took.as_secs_f64().max(1e-9);
        Self {
            rate: per_second(hand_overs.len()),
            pairs: per_second(waits.len()),
            hand_over: Percentiles::new(hand_overs),
            waits: Percentiles::new(waits),
        }
    }

    /// Returns the longest wait over the median wait, which is near 1 for a fair lock.
    pub fn fairness(&self) -> f64 {
        self.waits.longest().as_secs_f64() / self.waits.median().as_secs_f64().max(1e-9)
    }
}

/// Lets each of the clients acquire and release the same lock again and again for `span`, at least
/// once. [`Implementation::connect`] makes the clients.
///
/// Each client first completes one pair that is not counted, because it may create its session for its
/// first request.
///
/// # Errors
///
/// Returns the first failure.
///
/// # Cancel safety
///
/// Cancelling ends the tasks. The implementation decides how it gives up the lock.
pub async fn contended<I: Implementation + ?Sized + 'static>(
    clients: &[Arc<I>],
    lock: &str,
    span: Duration,
) -> Result<Contention, Failure> {
    contend(clients, lock, Duration::ZERO).await?;
    contend(clients, lock, span).await
}

/// Like [`contended`], with `tasks` tasks that share one client.
///
/// # Errors
///
/// Returns the first failure.
///
/// # Cancel safety
///
/// As for [`contended`].
pub async fn contended_by_one_client<I: Implementation + ?Sized + 'static>(
    client: &Arc<I>,
    lock: &str,
    tasks: usize,
    span: Duration,
) -> Result<Contention, Failure> {
    contend(&vec![Arc::clone(client); tasks], lock, span).await
}

/// Runs a task for each element.
async fn contend<I: Implementation + ?Sized + 'static>(
    clients: &[Arc<I>],
    lock: &str,
    span: Duration,
) -> Result<Contention, Failure> {
    let start = now();
    let grants = Arc::new(Mutex::new(Vec::<(usize, Instant)>::new()));
    let mut all = JoinSet::new();
    for (number, client) in clients.iter().enumerate() {
        let (client, lock) = (Arc::clone(client), lock.to_owned());
        let grants = Arc::clone(&grants);
        all.spawn(async move {
            let mut waits = Vec::new();
            while waits.is_empty() || now().since(start) < span {
                let begin = now();
                let held = || {
                    let mut grants = grants.lock().unwrap_or_else(PoisonError::into_inner);
                    grants.push((number, now()));
                };
                client.acquire_and_release(&lock, &held).await?;
                waits.push(now().since(begin));
            }
            Ok::<_, Failure>(waits)
        });
    }
    let mut waits = Vec::new();
    while let Some(outcome) = all.join_next().await {
        waits.extend(outcome??);
    }
    let took = now().since(start);
    let grants = grants.lock().unwrap_or_else(PoisonError::into_inner);
    let hand_overs = grants
        .windows(2)
        .filter_map(|pair| match pair {
            [(holder, granted), (next, next_granted)] if holder != next => {
                Some(next_granted.since(*granted))
            }
            _ => None,
        })
        .collect();
    Ok(Contention::new(hand_overs, waits, took))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;

    use super::*;

    /// A fair lock, and the number of grants.
    struct LocalLock(tokio::sync::Mutex<()>, AtomicUsize);

    impl LocalLock {
        fn new() -> Arc<Self> {
            Arc::new(Self(tokio::sync::Mutex::new(()), AtomicUsize::new(0)))
        }
    }

    #[async_trait]
    impl Implementation for LocalLock {
        fn name(&self) -> &'static str {
            "local"
        }

        fn waits(&self) -> bool {
            true
        }

        async fn acquire_and_release(
            &self,
            _lock: &str,
            held: &(dyn Fn() + Sync),
        ) -> Result<(), Failure> {
            let _guard = self.0.lock().await;
            self.1.fetch_add(1, Ordering::Relaxed);
            held();
            Ok(())
        }
    }

    #[tokio::test]
    async fn repeated_grant_to_one_task_is_no_hand_over() {
        let local = LocalLock::new();
        let one = contended_by_one_client(&local, "any", 1, Duration::from_millis(5))
            .await
            .unwrap();
        assert!(one.hand_over.is_empty() && !one.waits.is_empty());
        assert!(one.rate.abs() < f64::EPSILON);
        let three = contended_by_one_client(&local, "any", 3, Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(three.waits.len(), 3);
        assert_eq!(three.hand_over.len(), 2);
    }

    #[tokio::test]
    async fn first_pair_of_each_client_is_not_counted() {
        // The clients share no lock: each task uses the client that it was given.
        let clients = [LocalLock::new(), LocalLock::new()];
        let contention = contended(&clients, "any", Duration::ZERO).await.unwrap();
        assert_eq!(contention.waits.len(), 2);
        for client in &clients {
            assert_eq!(client.1.load(Ordering::Relaxed), 2);
        }
    }
}
