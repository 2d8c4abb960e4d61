//! Sentinels make another server the master.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tenure_core::{
    Acquisition, Client, Guard, Release,
    clock::{Clock, SystemClock},
    error::ErrorKind,
};
use tenure_redis::Options;
use tenure_test_servers::redis::{Sentinel, Server};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::common::{
    OPERATION_TIMEOUT, acquire, connected, enqueue_waiter, expect_granted, hold, hold_all,
    is_unused, millis, name, seconds, store, wait_until, within,
};

/// Longer than a failover takes, and the return of the old master as a replica.
const TTL: Duration = seconds(24);
/// Of holders that die with the master.
const DEAD_HOLDER_TTL: Duration = seconds(4);
const LOCKS: usize = 8;

#[derive(Clone, Copy)]
enum FailoverKind {
    /// The old master lives on as a replica.
    Planned,
    /// The old master is killed, and comes back later.
    Crash,
}

async fn client(url: &str, min_replicas: u32) -> Client {
    let options = Options::default().replicas(min_replicas, seconds(1));
    let store = store(url, options);
    Client::builder(store).ttl(TTL).connect().await.unwrap()
}

/// Takes one lock after the other, through all of it, until told to stop. An acquire that fails has
/// failed in a way that can be tried again.
async fn acquire_until_stopped(client: Client, stop: Arc<AtomicBool>) -> Vec<Guard> {
    let mut guards = Vec::new();
    for index in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        match client
            .lock(format!("run {index}"))
            .unwrap()
            .try_acquire()
            .await
        {
            Ok(Acquisition::Acquired(guard)) => guards.push(guard),
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        sleep(millis(5)).await;
    }
    guards
}

/// Tries until there is an answer: a new master may have no replica for a moment.
async fn try_until_answered(client: &Client, lock: &str) -> Acquisition {
    let lock = client.lock(lock).unwrap();
    within("an answer", OPERATION_TIMEOUT, async {
        loop {
            match lock.try_acquire().await {
                Ok(answer) => return answer,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            sleep(millis(20)).await;
        }
    })
    .await
}

async fn wait_until_queued(client: &Client, names: &[String]) {
    within("all wait", OPERATION_TIMEOUT, async {
        for lock in names {
            while client.inspect(&name(lock)).await.unwrap().queue.is_empty() {
                sleep(millis(5)).await;
            }
        }
    })
    .await;
}

/// `min_replicas` is also what may be asked of the locks: with it, nobody gets a lock that somebody
/// was given before and believes in; without it, that is so for locks that the replica had.
async fn failover(kind: FailoverKind, min_replicas: u32) {
    let group = Arc::new(Sentinel::builder().start().unwrap());
    let url = group.url();
    let holding = client(&url, min_replicas).await;
    let waiting = client(&url, min_replicas).await;
    let names: Vec<String> = (0..LOCKS).map(|index| format!("held {index}")).collect();
    let dying: Vec<String> = (0..2).map(|index| format!("dead {index}")).collect();
    let held = hold_all(&holding, &names).await;
    let mut dead = Vec::new();
    for lock in &dying {
        let lock = holding.lock(lock).unwrap().ttl(DEAD_HOLDER_TTL);
        dead.push(lock.acquire().await.unwrap());
    }
    let waiters: Vec<_> = names.iter().map(|lock| acquire(&waiting, lock)).collect();
    let successors: Vec<_> = dying.iter().map(|lock| acquire(&waiting, lock)).collect();
    let all: Vec<_> = names.iter().chain(&dying).cloned().collect();
    wait_until_queued(&holding, &all).await;
    // From here on the replica has all of this.
    let master = group.master().unwrap();
    assert_eq!(master.text(&["WAIT", "1", "10000"]).unwrap(), "1");
    let offset = |at: usize, field: &str| group.servers()[at].info(field).unwrap().unwrap();
    let written: u64 = offset(0, "master_repl_offset").parse().unwrap();
    wait_until("the replica has it", OPERATION_TIMEOUT, || {
        offset(1, "slave_repl_offset").parse::<u64>().unwrap() >= written
    })
    .await;

    let stop = Arc::new(AtomicBool::new(false));
    let running = tokio::spawn(acquire_until_stopped(holding.clone(), Arc::clone(&stop)));
    sleep(millis(300)).await;
    let mut dead_tokens = Vec::new();
    for guard in dead {
        dead_tokens.push(guard.token());
        guard.abandon();
    }
    let begun = SystemClock.now();
    let failing = Arc::clone(&group);
    spawn_blocking(move || match kind {
        FailoverKind::Planned => {
            failing.failover().unwrap();
        }
        FailoverKind::Crash => {
            failing.kill_master().unwrap();
            // One failover is what this is about; a second one, to a server that came back empty and
            // is not in step yet, loses every lock.
            failing.set_down_after(seconds(60)).unwrap();
            failing.servers()[0].restart().unwrap();
            failing.wait_until_settled().unwrap();
        }
    })
    .await
    .unwrap();
    let took = SystemClock.now().since(begun);
    sleep(millis(500)).await;
    stop.store(true, Ordering::SeqCst);
    let run = running.await.unwrap();
    assert!(run.len() > 20, "{} locks, {took:?}", run.len());

    // The same clients go on; another one sees what they see.
    connected(&holding).await;
    for guard in &held {
        assert!(guard.check().is_ok(), "the replica had it: {guard:?}");
        within("a renewal", OPERATION_TIMEOUT, guard.renew())
            .await
            .unwrap();
    }
    let third = client(&url, min_replicas).await;
    let mut taken = 0;
    for guard in held.iter().chain(&run) {
        let Acquisition::Acquired(second) = try_until_answered(&third, guard.name().as_str()).await
        else {
            continue;
        };
        assert!(second.token() > guard.token(), "t1");
        taken += 1;
        assert!(
            min_replicas == 0 || guard.check().is_err(),
            "x1: {guard:?} was acknowledged by a replica, and {second:?} as well"
        );
    }
    println!(
        "{} locks, {taken} of them were given again; {took:?}",
        run.len()
    );

    // While there was no master, nothing moved on.
    let bound = holding.capabilities().takeover.of(DEAD_HOLDER_TTL, TTL) + took;
    for (successor, token) in successors.into_iter().zip(dead_tokens) {
        let left = bound.saturating_sub(SystemClock.now().since(begun)) + OPERATION_TIMEOUT / 4;
        let guard = expect_granted("the takeover from a dead holder", left, successor).await;
        assert!(guard.token() > token, "t1");
    }
    for (guard, waiter) in held.iter().zip(waiters) {
        let released = guard.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
        let next = expect_granted("a waiter's turn", OPERATION_TIMEOUT, waiter).await;
        assert!(next.token() > guard.token(), "t1");
    }
    for guard in run {
        let _ = guard.release().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_a_handover_with_replicas_that_acknowledge() {
    failover(FailoverKind::Planned, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_a_handover_with_nobody_who_acknowledges() {
    failover(FailoverKind::Planned, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_a_killed_master_with_replicas_that_acknowledge() {
    failover(FailoverKind::Crash, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_a_killed_master_with_nobody_who_acknowledges() {
    failover(FailoverKind::Crash, 0).await;
}

/// What no replica has, a failover would lose: so it is not given, and not believed to be renewed.
#[tokio::test(flavor = "multi_thread")]
async fn x1_what_no_replica_acknowledges_is_given_back() {
    let master = Server::builder().start().unwrap();
    let replica = Server::builder().replica_of(&master).start().unwrap();
    let first = client(&master.url(), 1).await;
    let second = client(&master.url(), 1).await;
    let held = hold(&first, "held").await;
    let passed = hold(&first, "passed").await;
    let waiter = enqueue_waiter(&master, &second, "passed", 1).await;

    replica.pause().unwrap();
    let error = first.lock("new").unwrap().try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(
        error.is_retryable() && error.to_string().contains("min_replicas"),
        "{error}"
    );
    assert!(is_unused(&master, "new"), "it is given back");
    let proved = held.valid_until();
    assert!(
        timeout(seconds(3), held.renew()).await.is_err(),
        "k4: nothing is proved"
    );
    assert_eq!(held.valid_until(), proved, "d2");
    assert!(held.check().is_ok(), "l5");
    let _ = passed.release().await;
    sleep(seconds(3)).await;
    assert!(!waiter.is_finished(), "it holds what no replica has");

    replica.resume().unwrap();
    let next = expect_granted("the waiter's turn", OPERATION_TIMEOUT, waiter).await;
    assert!(next.token() > passed.token(), "t1");
    within("a renewal", OPERATION_TIMEOUT, held.renew())
        .await
        .unwrap();
    let Acquisition::Acquired(new) = try_until_answered(&first, "new").await else {
        panic!("somebody has it");
    };
    for guard in [held, next, new] {
        let released = guard.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
    }
}
