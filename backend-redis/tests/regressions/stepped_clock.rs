//! Grants and tokens when the wall clock of a server is stepped, and when the clock of a new master differs.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    Guard, Release,
    clock::{Clock, SystemClock},
    id::AttemptId,
    request::Enqueued,
    token::FencingToken,
};
use tenure_redis::Options;
use tenure_test_servers::redis::{Sentinel, Server};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    common::{
        OPERATION_TIMEOUT, RawBackend, acquire, client, enqueue_waiter, expect_granted, hold,
        millis, seconds, wait_until, within,
    },
    losses::{self, Losses, Settings, TTL},
};

/// A step, in seconds, beyond every TTL and delay.
const HOUR: i64 = 3600;
/// A step forward, in seconds: longer than the TTL, and shorter than the timeout of the replication.
const AHEAD: i64 = 10;
/// The locks with a waiter, and the locks without one, that are held at the step forward.
const LOCKS: usize = 50;

fn start_server() -> Server {
    Server::builder().steppable_clock().start().unwrap()
}

/// Returns for how long both guards say that they are held.
async fn held_together(first: &Guard, second: &Guard) -> Duration {
    let begun = SystemClock.now();
    let mut end = begun;
    while first.check().is_ok() && second.check().is_ok() {
        end = SystemClock.now();
        sleep(millis(1)).await;
    }
    end.since(begun)
}

async fn release(guard: Guard) {
    let outcome = guard.release().await;
    assert!(matches!(outcome, Release::Released), "R1: {outcome:?}");
}

/// The first holder learns of the loss with its next renewal, a third of the TTL later.
#[tokio::test(flavor = "multi_thread")]
async fn x1_step_forward_gives_each_lock_a_second_holder_for_less_than_a_ttl() {
    let server = start_server();
    let holding = client(&server.url(), TTL).await;
    let other = client(&server.url(), TTL).await;
    let (mut waited_for, mut alone) = (Vec::new(), Vec::new());
    for index in 0..LOCKS {
        let lock = format!("waited for {index}");
        let first = hold(&holding, &lock).await;
        waited_for.push((first, enqueue_waiter(&server, &other, &lock, 1).await));
        alone.push(hold(&holding, &format!("alone {index}")).await);
        // The renewals are spread over a third of the TTL.
        sleep(TTL / 3 / 50).await;
    }

    server.set_clock_offset(AHEAD).unwrap();
    for first in alone {
        let second = acquire(&other, first.name().as_str());
        waited_for.push((first, second));
    }
    let mut pairs = JoinSet::new();
    for (first, second) in waited_for {
        pairs.spawn(async move {
            let second = expect_granted("the lock", OPERATION_TIMEOUT, second).await;
            let doubled = held_together(&first, &second).await;
            within("the loss", OPERATION_TIMEOUT, first.lost()).await;
            assert!(second.token() > first.token(), "T1");
            doubled
        });
    }
    let (mut doubled, mut longest) = (0, Duration::ZERO);
    while let Some(pair) = pairs.join_next().await {
        let together = pair.unwrap();
        doubled += usize::from(!together.is_zero());
        longest = longest.max(together);
    }
    println!(
        "a step forward by {AHEAD} s: {} locks, {doubled} of them with two holders, at most for {longest:?}",
        2 * LOCKS
    );
    assert!(longest < TTL, "L1: {longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_step_back_keeps_the_lock_held_and_the_tokens_rising() {
    let server = start_server();
    let holding = client(&server.url(), TTL).await;
    let other = client(&server.url(), TTL).await;
    let free = hold(&holding, "free").await;
    let mut last = free.token();
    release(free).await;
    let held = hold(&holding, "held").await;
    let waiter = enqueue_waiter(&server, &other, "held", 1).await;

    server.set_clock_offset(-HOUR).unwrap();
    let stepped = SystemClock.now();
    wait_until("renewals after the step", OPERATION_TIMEOUT, || {
        assert!(held.check().is_ok(), "X3");
        held.valid_until() > stepped + TTL * 2
    })
    .await;
    assert!(!waiter.is_finished(), "X1");
    let last_held = held.token();
    release(held).await;
    let next = expect_granted("the waiter", OPERATION_TIMEOUT, waiter).await;
    assert!(next.token() > last_held, "T1");
    for _ in 0..3 {
        let guard = hold(&other, "free").await;
        // The clock alone would give a lower token.
        assert_eq!(guard.token().get(), last.get() + 1, "T1");
        last = guard.token();
        release(guard).await;
    }
}

/// An attempt of a client that is never heard of again; the token if it holds the lock.
async fn enqueue_dead(raw: &RawBackend, lock: &str) -> Option<FencingToken> {
    let attempt = AttemptId::random().unwrap();
    let request = RawBackend::enqueue(lock, attempt, TTL);
    match raw.backend.enqueue(request).await.unwrap() {
        Enqueued::Granted(grant) => Some(grant.token),
        _ => None,
    }
}

/// By the records alone, the dead attempts would lapse an hour later. They lapse one TTL after a client that
/// waits asks for the lock.
#[tokio::test(flavor = "multi_thread")]
async fn x3_step_back_keeps_dead_attempts_for_one_more_ttl() {
    let server = start_server();
    let raw = RawBackend::connect(&server.url(), Options::default()).await;
    let living = client(&server.url(), TTL).await;
    for lock in ["waiter before", "waiter after"] {
        enqueue_dead(&raw, lock).await.unwrap();
    }
    let held = hold(&living, "dead waiter").await;
    assert_eq!(enqueue_dead(&raw, "dead waiter").await, None);
    let before = enqueue_waiter(&server, &living, "waiter before", 1).await;

    server.set_clock_offset(-HOUR).unwrap();
    let after = enqueue_waiter(&server, &living, "waiter after", 1).await;
    let behind = enqueue_waiter(&server, &living, "dead waiter", 2).await;
    release(held).await;
    for waiter in [before, after, behind] {
        let _guard =
            expect_granted("a TTL after the step", TTL * 2 + OPERATION_TIMEOUT, waiter).await;
    }
}

/// The server counts the time since its start by its wall clock.
#[tokio::test(flavor = "multi_thread")]
async fn x1_step_forward_ends_the_restart_delay() {
    let server = start_server();
    let options = Options::default().restart_delay(seconds(1800));
    let early = RawBackend::connect(&server.url(), options.clone()).await;
    let request = || RawBackend::enqueue("lock", AttemptId::random().unwrap(), TTL);
    let refused = early.backend.enqueue(request()).await;
    assert!(refused.is_err(), "{refused:?}");

    server.set_clock_offset(HOUR).unwrap();
    let late = RawBackend::connect(&server.url(), options).await;
    let outcome = late.backend.enqueue(request()).await.unwrap();
    assert!(matches!(outcome, Enqueued::Granted(_)), "{outcome:?}");
}

/// The clocks of the replicas show this many seconds more than that of the master. An operator calls
/// `SENTINEL FAILOVER`.
async fn measure(offset: i64, min_replicas: u32) -> Losses {
    let servers = Server::builder().steppable_clock();
    let group = Sentinel::builder().replicas(2).servers(servers);
    let group = Arc::new(group.start().unwrap());
    for replica in group.replicas().unwrap() {
        replica.set_clock_offset(offset).unwrap();
    }
    let promote = |group: &Sentinel| {
        group.failover().unwrap();
    };
    let (what, url) = (format!("new master {offset} s ahead"), group.url());
    losses::measure(
        &what,
        &group,
        &url,
        Settings::new(min_replicas),
        promote,
        |_| (),
    )
    .await
}

/// All leases have lapsed by the clock of the new master.
#[tokio::test(flavor = "multi_thread")]
async fn t1_new_master_ahead_without_acknowledgement() {
    let losses = measure(AHEAD, 0).await;
    losses.are_short();
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_new_master_ahead_with_one_of_two_replicas_acknowledging() {
    let losses = measure(AHEAD, 1).await;
    losses.are_short();
}

/// The next token of a lock whose last grant is lost comes from the clock alone, and is lower.
#[tokio::test(flavor = "multi_thread")]
async fn x1_new_master_behind_without_acknowledgement() {
    let losses = measure(-HOUR, 0).await;
    assert!(losses.longest < TTL, "L1: {losses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_new_master_behind_with_one_of_two_replicas_acknowledging() {
    let losses = measure(-HOUR, 1).await;
    assert!(losses.longest < TTL, "L1: {losses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_new_master_behind_with_all_replicas_acknowledging() {
    let losses = measure(-HOUR, 2).await;
    losses.are_none();
}
