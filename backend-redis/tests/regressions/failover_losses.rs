//! How many locks have two holders after a failover, and for how long.
//!
//! A client holds locks and acquires more, until the sentinels have promoted a replica. Then another client
//! waits for each of these locks, and holds what it is granted while the first guard says that it is held.

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
use tenure_test_servers::{redis::Sentinel, wire::Proxy};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::sleep,
};

use crate::common::{hold_all, millis, seconds, store};

const TTL: Duration = seconds(3);
/// The time from the promotion to the end of the partition.
const PARTITION: Duration = seconds(12);
/// The locks that are held for long before the failover.
const HELD: usize = 50;
/// The tasks that acquire further locks until the failover.
const TASKS: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Cause {
    /// The master is killed.
    Kill,
    /// The master is cut off from the replicas and the sentinel. Its clients reach the sentinel.
    Partition,
    /// The same, and its clients do not reach the sentinel either.
    PartitionWithClients,
}

#[derive(Debug, Default)]
struct Losses {
    locks: usize,
    /// The locks with two holders.
    doubled: usize,
    /// The longest time for which a lock had two holders.
    longest: Duration,
}

impl Losses {
    /// The promoted replica may be another one than the one that acknowledged. That can be so for the grants of
    /// the last moments, which nothing renews afterwards.
    fn are_few(&self) {
        assert!(self.doubled * 20 <= self.locks, "X1: {self:?}");
        assert!(self.longest < TTL, "L1: {self:?}");
    }
}

async fn client(url: &str, min_replicas: u32) -> Client {
    let options = Options::default().replicas(min_replicas, seconds(1));
    let builder = Client::builder(store(url, options)).ttl(TTL);
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

/// Waits for a lock that has a holder, and returns for how long both guards say that they are held.
async fn held_beside(first: Guard, client: Client, limit: Duration) -> Duration {
    let deadline = SystemClock.now() + limit;
    let lock = client.lock(first.name().as_str()).unwrap();
    let second = loop {
        let left = deadline.since(SystemClock.now());
        if left.is_zero() {
            return Duration::ZERO;
        }
        match lock.acquire_within(left).await {
            Ok(acquisition) => match acquisition.acquired() {
                Some(second) => break second,
                None => return Duration::ZERO,
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
    assert!(second.token() > first.token(), "T1");
    end.since(begun)
}

async fn measure(cause: Cause, min_replicas: u32) -> Losses {
    let group = Sentinel::builder().replicas(2).links().start().unwrap();
    let group = Arc::new(group);
    // The holder reaches the sentinel through the proxy.
    let proxy = Proxy::start(group.sentinels()[0].address()).unwrap();
    let url = format!("redis+sentinel://{}/{}", proxy.address(), group.name());
    let holding = client(&url, min_replicas).await;
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
    sleep(TTL).await;

    let begun = SystemClock.now();
    if matches!(cause, Cause::PartitionWithClients) {
        proxy.hold_requests();
        proxy.hold_replies();
    }
    let failing = Arc::clone(&group);
    let promote = move || {
        match cause {
            Cause::Kill => failing.kill_master(),
            Cause::Partition | Cause::PartitionWithClients => failing.isolate_master(),
        }
        .unwrap();
    };
    spawn_blocking(promote).await.unwrap();
    let took = SystemClock.now().since(begun);
    stop.store(true, Ordering::SeqCst);
    while let Some(more) = running.join_next().await {
        guards.extend(more.unwrap());
    }
    let other = client(&group.url(), min_replicas).await;
    let mut pairs = JoinSet::new();
    let mut losses = Losses {
        locks: guards.len(),
        ..Losses::default()
    };
    for guard in guards {
        pairs.spawn(held_beside(guard, other.clone(), PARTITION));
    }
    sleep(PARTITION).await;
    group.links().unwrap().heal();
    proxy.release_requests();
    proxy.release_replies();
    while let Some(doubled) = pairs.join_next().await {
        let doubled = doubled.unwrap();
        losses.doubled += usize::from(!doubled.is_zero());
        losses.longest = losses.longest.max(doubled);
    }
    println!(
        "{cause:?}, min_replicas = {min_replicas}: {} locks, {} of them with two holders, at most for \
         {:?}; promoted after {took:?}",
        losses.locks, losses.doubled, losses.longest
    );
    losses
}

/// Without acknowledgements, the old master proves grants until the client learns of the new one.
#[tokio::test(flavor = "multi_thread")]
async fn t1_partitioned_master_without_acknowledgement() {
    let losses = measure(Cause::Partition, 0).await;
    assert!(losses.doubled > 0, "the partition had no effect");
    assert!(losses.longest < TTL, "L1: {losses:?}");
}

/// The client learns of the new master when the partition ends.
#[tokio::test(flavor = "multi_thread")]
async fn t1_master_partitioned_with_its_clients_without_acknowledgement() {
    let losses = measure(Cause::PartitionWithClients, 0).await;
    assert!(losses.longest > TTL, "the partition had no effect");
    assert!(losses.longest < PARTITION + TTL * 2, "L1: {losses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_master_partitioned_with_its_clients_with_acknowledging_replicas() {
    let losses = measure(Cause::PartitionWithClients, 1).await;
    losses.are_few();
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_partitioned_master_with_acknowledging_replicas() {
    let losses = measure(Cause::Partition, 1).await;
    losses.are_few();
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_killed_master_without_acknowledgement() {
    let losses = measure(Cause::Kill, 0).await;
    assert!(losses.longest < TTL, "L1: {losses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_killed_master_with_acknowledging_replicas() {
    let losses = measure(Cause::Kill, 1).await;
    losses.are_few();
}
