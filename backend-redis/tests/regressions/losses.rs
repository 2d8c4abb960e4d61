//! Measures how many locks have two holders after a failover, and for how long.
//!
//! A client holds locks and acquires more, until another server is the master. Then another client waits
//! for each of these locks, and holds what it is granted while the first guard says that it is held.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tenure_core::{
    Acquisition, Client, Guard,
    clock::{Clock, SystemClock},
};
use tenure_redis::Options;
use tenure_test_servers::redis::Sentinel;
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::sleep,
};

use crate::common::{hold_all, millis, seconds, store};

pub(crate) const TTL: Duration = seconds(3);
/// The time for which the other client waits for the locks.
pub(crate) const OBSERVATION: Duration = seconds(12);
/// The locks that are held for long before the failover.
const HELD: usize = 50;
/// The tasks that acquire further locks until the failover.
const TASKS: usize = 4;

/// The settings of the clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) ttl: Duration,
    pub(crate) min_replicas: u32,
}

impl Settings {
    pub(crate) const fn new(min_replicas: u32) -> Self {
        Self {
            ttl: TTL,
            min_replicas,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Losses {
    pub(crate) settings: Settings,
    pub(crate) locks: usize,
    /// The locks with two holders.
    pub(crate) doubled: usize,
    /// The longest time for which a lock had two holders.
    pub(crate) longest: Duration,
    /// The locks whose second holder has a token that is not greater than the first one's.
    pub(crate) lower_tokens: usize,
}

impl Losses {
    /// The promoted replica may be another one than the one that acknowledged. That can be so for the grants of
    /// the last moments, which nothing renews afterwards.
    pub(crate) fn are_few(&self) {
        self.are_short();
        assert!(self.doubled * 20 <= self.locks, "X1: {self:?}");
    }

    /// Each grant was acknowledged by the server that was promoted.
    pub(crate) fn are_none(&self) {
        self.are_short();
        assert_eq!(self.doubled, 0, "X1: {self:?}");
    }

    /// The first holder learns of the loss with its next renewal, or at its deadline.
    pub(crate) fn are_short(&self) {
        self.end_before(self.settings.ttl);
    }

    pub(crate) fn end_before(&self, bound: Duration) {
        assert!(self.longest < bound, "L1: {self:?}");
        assert_eq!(self.lower_tokens, 0, "T1: {self:?}");
    }
}

async fn client(url: &str, settings: Settings) -> Client {
    let options = Options::default().replicas(settings.min_replicas, seconds(1));
    let builder = Client::builder(store(url, options)).ttl(settings.ttl);
    let deadline = SystemClock.now() + seconds(20);
    loop {
        match builder.clone().connect().await {
            Ok(client) => return client,
            Err(error) if error.is_retryable() && SystemClock.now() < deadline => {
                sleep(millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Acquires one lock after the other until told to stop.
async fn acquire_until_stopped(client: Client, task: usize, stop: Arc<AtomicBool>) -> Vec<Guard> {
    let mut guards = Vec::new();
    for index in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let lock = client.lock(format!("run {task} {index}")).unwrap();
        if let Ok(Acquisition::Acquired(guard)) = lock.try_acquire().await {
            guards.push(guard);
        }
        sleep(millis(5)).await;
    }
    guards
}

/// Waits for a lock that has a holder. Returns for how long both guards say that they are held, and whether
/// the second one has the greater token.
async fn held_beside(first: Guard, client: Client, limit: Duration) -> (Duration, bool) {
    const NEVER: (Duration, bool) = (Duration::ZERO, true);
    let deadline = SystemClock.now() + limit;
    let lock = client.lock(first.name().as_str()).unwrap();
    let second = loop {
        let left = deadline.since(SystemClock.now());
        if left.is_zero() {
            return NEVER;
        }
        match lock.acquire_within(left).await {
            Ok(acquisition) => match acquisition.acquired() {
                Some(second) => break second,
                None => return NEVER,
            },
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        sleep(millis(20)).await;
    };
    let begun = SystemClock.now();
    let mut end = begun;
    while first.check().is_ok() && second.check().is_ok() {
        end = SystemClock.now();
        sleep(millis(5)).await;
    }
    (end.since(begun), second.token() > first.token())
}

/// Measures what `promote` loses, which returns when another server is the master. The holder connects to
/// `url`. `heal` is called at the end of the observation.
pub(crate) async fn measure(
    what: &str,
    group: &Arc<Sentinel>,
    url: &str,
    settings: Settings,
    promote: impl FnOnce(&Sentinel) + Send + 'static,
    heal: impl FnOnce(&Sentinel),
) -> Losses {
    let holding = client(url, settings).await;
    let names: Vec<String> = (0..HELD).map(|index| format!("held {index}")).collect();
    let mut guards = hold_all(&holding, &names).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut running = JoinSet::new();
    for task in 0..TASKS {
        running.spawn(acquire_until_stopped(
            holding.clone(),
            task,
            Arc::clone(&stop),
        ));
    }
    sleep(settings.ttl).await;

    let begun = SystemClock.now();
    let failing = Arc::clone(group);
    spawn_blocking(move || promote(&failing)).await.unwrap();
    let took = SystemClock.now().since(begun);
    stop.store(true, Ordering::SeqCst);
    while let Some(more) = running.join_next().await {
        guards.extend(more.unwrap());
    }
    let other = client(&group.url(), settings).await;
    let mut pairs = JoinSet::new();
    let mut losses = Losses {
        settings,
        locks: guards.len(),
        doubled: 0,
        longest: Duration::ZERO,
        lower_tokens: 0,
    };
    for guard in guards {
        pairs.spawn(held_beside(guard, other.clone(), OBSERVATION));
    }
    sleep(OBSERVATION).await;
    heal(group);
    while let Some(pair) = pairs.join_next().await {
        let (doubled, is_greater) = pair.unwrap();
        losses.doubled += usize::from(!doubled.is_zero());
        losses.longest = losses.longest.max(doubled);
        losses.lower_tokens += usize::from(!is_greater);
    }
    println!("{what}, promoted after {took:?}: {losses:?}");
    losses
}
