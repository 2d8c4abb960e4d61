//! Sentinels promote another server.

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

/// Longer than a failover and the return of the old master as a replica.
const TTL: Duration = seconds(24);
/// The TTL of holders that die together with the master.
const DEAD_HOLDER_TTL: Duration = seconds(4);
const LOCKS: usize = 8;

#[derive(Clone, Copy)]
enum FailoverKind {
    /// The old master continues as a replica.
    Planned,
    /// The old master is killed and restarts later.
    Crash,
}

async fn client(url: &str, min_replicas: u32) -> Client {
    let options = Options::default().replicas(min_replicas, seconds(1));
    let store = store(url, options);
    Client::builder(store).ttl(TTL).connect().await.unwrap()
}

/// Acquires one lock after the other until told to stop. An acquire may fail only with a retryable
/// error.
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

/// Retries until there is an answer, because a new master may briefly have no replica.
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
    within("all waiters are queued", OPERATION_TIMEOUT, async {
        for lock in names {
            while client.inspect(&name(lock)).await.unwrap().queue.is_empty() {
                sleep(millis(5)).await;
            }
        }
    })
    .await;
}

/// `min_replicas` also determines what the test may require. With it, no lock is granted while
/// another guard, acknowledged before, still says that it is held. Without it, that holds only for
/// the locks that the replica had received.
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
    // At this point the replica has received everything so far.
    let master = group.master().unwrap();
    assert_eq!(master.text(&["WAIT", "1", "10000"]).unwrap(), "1");
    let offset = |at: usize, field: &str| group.servers()[at].info(field).unwrap().unwrap();
    let written: u64 = offset(0, "master_repl_offset").parse().unwrap();
    wait_until(
        "the replica has received everything",
        OPERATION_TIMEOUT,
        || offset(1, "slave_repl_offset").parse::<u64>().unwrap() >= written,
    )
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
            // This test is about one failover. A second failover, to a server that restarted empty
            // and is not in sync yet, would lose every lock.
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

    // The same clients continue, and another client sees the same state.
    connected(&holding).await;
    for guard in &held {
        assert!(
            guard.check().is_ok(),
            "the replica had this grant: {guard:?}"
        );
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
            "x1: a replica acknowledged both {guard:?} and {second:?}"
        );
    }
    println!(
        "{} locks, {taken} of them granted again; {took:?}",
        run.len()
    );

    // While there was no master, no waiter could be granted a lock.
    let bound = holding.capabilities().takeover.of(DEAD_HOLDER_TTL, TTL) + took;
    for (successor, token) in successors.into_iter().zip(dead_tokens) {
        let left = bound.saturating_sub(SystemClock.now().since(begun)) + OPERATION_TIMEOUT / 4;
        let guard = expect_granted("the takeover from a dead holder", left, successor).await;
        assert!(guard.token() > token, "t1");
    }
    for (guard, waiter) in held.iter().zip(waiters) {
        let released = guard.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
        let next = expect_granted("the waiter is granted", OPERATION_TIMEOUT, waiter).await;
        assert!(next.token() > guard.token(), "t1");
    }
    for guard in run {
        let _ = guard.release().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_planned_failover_with_acknowledging_replicas() {
    failover(FailoverKind::Planned, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_planned_failover_without_acknowledgement() {
    failover(FailoverKind::Planned, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_killed_master_with_acknowledging_replicas() {
    failover(FailoverKind::Crash, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_killed_master_without_acknowledgement() {
    failover(FailoverKind::Crash, 0).await;
}

/// A failover would lose a grant that no replica has. Such a grant is not given, and such a renewal
/// proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn x1_grant_without_acknowledgement_is_undone() {
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
    assert!(is_unused(&master, "new"), "the grant is undone");
    let proved = held.valid_until();
    assert!(
        timeout(seconds(3), held.renew()).await.is_err(),
        "k4: the renewal is not proved"
    );
    assert_eq!(held.valid_until(), proved, "d2");
    assert!(held.check().is_ok(), "l5");
    let _ = passed.release().await;
    sleep(seconds(3)).await;
    assert!(
        !waiter.is_finished(),
        "the waiter holds a lock that no replica has"
    );

    replica.resume().unwrap();
    let next = expect_granted("the waiter is granted", OPERATION_TIMEOUT, waiter).await;
    assert!(next.token() > passed.token(), "t1");
    within("a renewal", OPERATION_TIMEOUT, held.renew())
        .await
        .unwrap();
    let Acquisition::Acquired(new) = try_until_answered(&first, "new").await else {
        panic!("the lock is held");
    };
    for guard in [held, next, new] {
        let released = guard.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
    }
}
