//! The ends of guards, clients and runtimes: drops, shutdowns and cancellations beside each other.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may panic, and measures"
)]

mod common;

use std::{
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use tenure_core::{Client, blocking, id::AttemptId, queue::ClockId};
use tenure_file::{FileStore, Options};

/// X3, C1: on a network file system (`allow_network`), and after a reboot, the clock of the holder is
/// another one than that of the waiter. Each client has a clock, so each declares 100 % of the holder's TTL.
#[tokio::test]
async fn x3_declared_bound_holds_between_two_clocks() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("locks");
    let ttl = Duration::from_secs(5);
    let options = Options::default().clock_identity(ClockId::new(5));
    let holder = common::try_connect(&dir, options).await.unwrap();
    let options = Options::default().clock_identity(ClockId::new(6));
    let waiter = common::try_connect(&dir, options).await.unwrap();
    let of_holder = holder.backend.capabilities().await.unwrap().takeover;
    let of_waiter = waiter.backend.capabilities().await.unwrap().takeover;
    let short = Duration::from_secs(1);
    let bound = of_holder.of(ttl, short).max(of_waiter.of(ttl, short));
    let name = common::lock("job");
    let begun = Instant::now();
    holder.acquire(&name, ttl).await;
    // The holder is silent, and the waiter comes just before the TTL ends.
    tokio::time::sleep(ttl * 9 / 10).await;
    let attempt = AttemptId::random().unwrap();
    // It is a waiter whose own TTL is short.
    let owner = tenure_core::request::Owner::new("test", "host", 1);
    let request = tenure_core::request::Enqueue::new(name.clone(), attempt, owner, short, true);
    let _ = waiter.backend.enqueue(request).await.unwrap();
    let grant = waiter
        .granted(&name, attempt, Duration::from_secs(30))
        .await;
    let took = begun.elapsed();
    assert!(grant.is_some());
    assert!(
        took <= bound,
        "{took:?} after the last proof; declared: {bound:?}"
    );
}

/// R5: a guard is dropped beside a shutdown. The shutdown names each lock that stays taken.
#[test]
fn r5_drops_beside_shutdowns() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("locks");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let observer = runtime
        .block_on(Client::builder(FileStore::new(&dir)).connect())
        .unwrap();
    let mut left = Vec::new();
    for round in 0..150_u64 {
        let client = runtime
            .block_on(Client::builder(FileStore::new(&dir)).connect())
            .unwrap();
        let name = format!("job-{round}");
        let guard = runtime
            .block_on(client.lock(&name).unwrap().acquire())
            .unwrap();
        let dropper = thread::spawn(move || drop(guard));
        thread::sleep(Duration::from_micros(10 * round));
        let report = runtime.block_on(client.shutdown(Duration::from_secs(10)));
        dropper.join().unwrap();
        thread::sleep(Duration::from_millis(30));
        let state = runtime.block_on(observer.inspect(&name)).unwrap();
        if state.holder.is_some() && report.unreleased.is_empty() {
            left.push((round, report));
        }
    }
    assert!(
        left.is_empty(),
        "left in the store, and not named: {left:?}"
    );
}

/// The actions of `on_lost` "run on a thread that renews nothing". They take all blocking threads of the
/// client's runtime, on which the file store makes its system calls.
#[test]
fn k1_actions_that_block_stop_no_renewal() {
    const COUNT: usize = 512;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("locks");
    let builder = || Client::builder(FileStore::new(&dir)).ttl(Duration::from_secs(20));
    let client = blocking::Client::connect(builder()).unwrap();
    let operator = blocking::Client::connect(builder()).unwrap();
    let healthy = client
        .lock("healthy")
        .unwrap()
        .ttl(Duration::from_secs(3))
        .acquire()
        .unwrap();
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let mut guards = Vec::new();
    for n in 0..COUNT {
        let guard = client.lock(format!("{n}")).unwrap().acquire().unwrap();
        let gate = Arc::clone(&gate);
        guard.on_lost(move |_| {
            let open = gate.0.lock().unwrap();
            drop(gate.1.wait_while(open, |open| !*open).unwrap());
        });
        guards.push(guard);
    }
    for guard in &guards {
        let _ = operator.evict(guard.name(), guard.token()).unwrap();
    }
    let begun = Instant::now();
    let mut checked = healthy.check();
    while checked.is_ok() && begun.elapsed() < Duration::from_secs(8) {
        thread::sleep(Duration::from_millis(50));
        checked = healthy.check();
    }
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    assert!(checked.is_ok(), "{checked:?} after {:?}", begun.elapsed());
}
