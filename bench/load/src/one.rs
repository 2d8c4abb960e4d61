//! One lock that many want, by one client or with a client each.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tenure_core::clock::Instant;
use tokio::task::JoinSet;

use crate::{Contender, Failure, Spread, now};

/// How a lock went from hand to hand.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fight {
    /// How often in a second it passed from one task to another. A task that takes the lock again
    /// that it has just given back has handed it over to nobody.
    pub rate: f64,
    /// From the moment at which one held it, doing nothing, to the same moment of the next one, who is
    /// somebody else: a release and a grant.
    pub hand_over: Spread,
    /// How long each turn took, waiting included.
    pub waits: Spread,
}

impl Fight {
    /// Of what was measured: the hand-overs and the turns of all tasks, and how long it took.
    pub fn new(hand_overs: Vec<Duration>, waits: Vec<Duration>, took: Duration) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let rate = hand_overs.len() as f64 / took.as_secs_f64().max(1e-9);
        Self {
            rate,
            hand_over: Spread::new(hand_overs),
            waits: Spread::new(waits),
        }
    }

    /// The longest wait over the median one: near 1 where turns are taken in order.
    pub fn unfairness(&self) -> f64 {
        self.waits.longest().as_secs_f64() / self.waits.median().as_secs_f64().max(1e-9)
    }
}

/// Lets so many tasks of one client take the same lock again and again for `span`; each of them ends
/// with a turn of its own.
///
/// # Errors
///
/// The failure of the first turn that fails.
///
/// # Cancel safety
///
/// Cancelling it ends the tasks, and leaves the lock to the contender's own way of giving up.
pub async fn one<C: Contender + ?Sized + 'static>(
    contender: &Arc<C>,
    lock: &str,
    tasks: usize,
    span: Duration,
) -> Result<Fight, Failure> {
    fight(&vec![Arc::clone(contender); tasks], lock, span).await
}

/// As [`one`], with a task for each of these: they have a client each, as
/// [`Contender::connect`] makes them. Each has had a turn before that is not counted, as a client may
/// make its session only when it is needed.
///
/// # Errors
///
/// The failure of the first turn that fails.
///
/// # Cancel safety
///
/// As with [`one`].
pub async fn each<C: Contender + ?Sized + 'static>(
    waiters: &[Arc<C>],
    lock: &str,
    span: Duration,
) -> Result<Fight, Failure> {
    fight(waiters, lock, Duration::ZERO).await?;
    fight(waiters, lock, span).await
}

/// Lets each of these take the lock in a task of its own.
async fn fight<C: Contender + ?Sized + 'static>(
    waiters: &[Arc<C>],
    lock: &str,
    span: Duration,
) -> Result<Fight, Failure> {
    let start = now();
    let grants = Arc::new(Mutex::new(Vec::<(usize, Instant)>::new()));
    let mut all = JoinSet::new();
    for (number, waiter) in waiters.iter().enumerate() {
        let (waiter, lock) = (Arc::clone(waiter), lock.to_owned());
        let grants = Arc::clone(&grants);
        all.spawn(async move {
            let mut waits = Vec::new();
            while waits.is_empty() || now().since(start) < span {
                let asked = now();
                let held = || {
                    let mut grants = grants.lock().unwrap_or_else(PoisonError::into_inner);
                    grants.push((number, now()));
                };
                waiter.turn(&lock, &held).await?;
                waits.push(now().since(asked));
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
    let hand_overs: Vec<_> = grants
        .windows(2)
        .filter_map(|pair| match pair {
            [(before, left), (next, got)] if before != next => Some(got.since(*left)),
            _ => None,
        })
        .collect();
    Ok(Fight::new(hand_overs, waits, took))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use tokio::sync::Mutex as Fair;

    use super::*;

    /// A lock, and how many turns were had.
    struct Local(Fair<()>, AtomicUsize);

    #[async_trait]
    impl Contender for Local {
        fn name(&self) -> &'static str {
            "local"
        }

        fn waits(&self) -> bool {
            true
        }

        async fn turn(&self, _lock: &str, held: &(dyn Fn() + Sync)) -> Result<(), Failure> {
            let _guard = self.0.lock().await;
            self.1.fetch_add(1, Ordering::Relaxed);
            held();
            Ok(())
        }
    }

    #[tokio::test]
    async fn who_takes_it_again_hands_over_to_nobody() {
        let local = Arc::new(Local(Fair::new(()), AtomicUsize::new(0)));
        let alone = one(&local, "any", 1, Duration::from_millis(5))
            .await
            .unwrap();
        assert!(alone.hand_over.is_empty() && !alone.waits.is_empty());
        assert!(alone.rate.abs() < f64::EPSILON);
        let fight = one(&local, "any", 3, Duration::ZERO).await.unwrap();
        assert_eq!(fight.waits.len(), 3);
        assert_eq!(fight.hand_over.len(), 2);
    }

    #[tokio::test]
    async fn waiters_with_a_client_each_have_one_turn_more_than_is_counted() {
        // Two that share nothing: each client is the one that it was given.
        let waiters = [0, 1].map(|_| Arc::new(Local(Fair::new(()), AtomicUsize::new(0))));
        let fight = each(&waiters, "any", Duration::ZERO).await.unwrap();
        assert_eq!(fight.waits.len(), 2);
        for waiter in &waiters {
            assert_eq!(waiter.1.load(Ordering::Relaxed), 2);
        }
    }
}
