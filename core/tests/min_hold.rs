//! A minimum hold, on a clock that the test moves.
#![expect(clippy::unwrap_used, reason = "a test")]

mod bench;

use std::{
    sync::{Arc, Barrier},
    time::Duration,
};

use tenure_core::{Client, Release, memory::MemoryStore};

use self::bench::{Bench, SECOND, TTL, settle};

#[tokio::test]
async fn h1_minimum_hold_outlasts_the_work_the_guard_and_the_ttl() {
    let bench = Bench::new();
    let (client, other) = (bench.client().await, bench.client().await);
    let lock = client.lock("a").unwrap().min_hold(3 * TTL);
    // A release waits.
    let guard = lock.acquire().await.unwrap();
    let releasing = tokio::spawn(async move { guard.release().await });
    bench.pass(3 * TTL).await;
    assert!(bench.is_held(&other).await && !releasing.is_finished());
    bench.pass(TTL / 10).await;
    assert!(matches!(releasing.await.unwrap(), Release::Released));
    // A dropped guard holds, also if it was the client's last handle.
    let guard = lock.acquire().await.unwrap();
    drop((guard, lock, client));
    bench.pass(3 * TTL).await;
    assert!(bench.is_held(&other).await);
    bench.pass(TTL / 10).await;
    assert!(!bench.is_held(&other).await);
}

#[tokio::test]
async fn h1_shorter_than_the_work_it_changes_nothing() {
    let bench = Bench::new();
    let client = bench.client().await;
    let guard = client
        .lock("a")
        .unwrap()
        .min_hold(SECOND)
        .acquire()
        .await
        .unwrap();
    bench.pass(2 * SECOND).await;
    assert!(matches!(guard.release().await, Release::Released));
    let guard = client
        .lock("a")
        .unwrap()
        .min_hold(10 * SECOND)
        .acquire()
        .await
        .unwrap();
    assert!(guard.min_hold_left() >= 10 * SECOND);
    client.evict("a", guard.token()).await.unwrap();
    settle().await;
    // A lost guard has nothing to hold.
    assert_eq!(guard.min_hold_left(), Duration::ZERO);
    assert!(matches!(guard.release().await, Release::NotHeld(_)));
}

#[tokio::test]
async fn h1_shutdown_waits_within_its_bound_and_names_the_rest() {
    let bench = Bench::new();
    let (client, other) = (bench.client().await, bench.client().await);
    let lock = |name: &str| client.lock(name).unwrap();
    let short = lock("short").min_hold(SECOND).acquire().await.unwrap();
    let long = lock("a").min_hold(10 * TTL).acquire().await.unwrap();
    let token = long.token();
    drop((short, long));
    let closing = {
        let client = client.clone();
        tokio::spawn(async move { client.shutdown(4 * SECOND).await })
    };
    bench.pass(4 * SECOND).await;
    let report = closing.await.unwrap();
    assert_eq!(report.released, 1);
    let named: Vec<_> = report.unreleased.iter().map(|left| left.token).collect();
    assert_eq!(named, [token]);
    drop(client);
    settle().await;
    assert!(bench.is_held(&other).await);
    bench.pass(TTL).await;
    assert!(!bench.is_held(&other).await, "the TTL is what remains");
}

#[tokio::test]
async fn r5_cancelled_shutdown_leaves_no_guard_that_holds() {
    let bench = Bench::new();
    let client = bench.client().await;
    let guard = client
        .lock("a")
        .unwrap()
        .min_hold(2 * SECOND)
        .acquire()
        .await
        .unwrap();
    tokio::select! {
        biased;
        _ = client.shutdown(20 * SECOND) => panic!("it waits for the minimum hold"),
        () = settle() => {}
    }
    assert!(guard.check().is_err());
    let other = bench.client().await;
    assert!(bench.is_held(&other).await);
    bench.pass(3 * SECOND).await;
    assert!(!bench.is_held(&other).await);
}

/// Another thread that looks at the guard must not end the minimum hold.
#[test]
fn h1_shutdown_keeps_the_lock_though_the_guard_is_checked() {
    for _ in 0..200 {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = MemoryStore::new();
        let connect = || {
            runtime
                .block_on(Client::builder(store.clone()).connect())
                .unwrap()
        };
        let (client, other) = (connect(), connect());
        let lock = client.lock("a").unwrap().min_hold(60 * SECOND);
        let guard = Arc::new(runtime.block_on(lock.acquire()).unwrap());
        let all_check = Arc::new(Barrier::new(3));
        let checks: Vec<_> = (0..2)
            .map(|_| {
                let (checked, all_check) = (Arc::clone(&guard), Arc::clone(&all_check));
                std::thread::spawn(move || {
                    all_check.wait();
                    while checked.check().is_ok() {}
                })
            })
            .collect();
        all_check.wait();
        let report = runtime.block_on(client.shutdown(Duration::from_millis(5)));
        checks.into_iter().for_each(|check| check.join().unwrap());
        assert_eq!(report.unreleased.len(), 1);
        // Whatever was queued for the lock is done when this client has been through its own queue.
        let state = runtime.block_on(async {
            settle().await;
            other.inspect("a").await
        });
        assert!(state.unwrap().holder.is_some());
        runtime.shutdown_background();
    }
}

/// The releaser ends with a guard whose minimum hold is not over, before it has taken it and after.
#[test]
fn r3_end_of_a_runtime_does_not_wait_for_a_minimum_hold() {
    for taken in [false, true] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let client = Client::builder(MemoryStore::new())
                .ttl(120 * SECOND)
                .connect()
                .await
                .unwrap();
            drop(
                client
                    .lock("a")
                    .unwrap()
                    .min_hold(120 * SECOND)
                    .acquire()
                    .await
                    .unwrap(),
            );
            if taken {
                settle().await;
            }
        });
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(runtime);
            ended.send(()).unwrap();
        });
        assert!(end.recv_timeout(60 * SECOND).is_ok(), "{taken}");
    }
}
