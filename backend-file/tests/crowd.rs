//! Many processes wait for one lock.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test may panic, and measures"
)]

mod common;

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};
use tenure_core::{
    backend::{BackendEvent, Context},
    id::AttemptId,
    request::{Enqueued, Removed, Renewed},
};
use tenure_file::Options;

use crate::common::{Client, connect, connect_with, lock, try_connect};

const PROCESSES: usize = 200;
const CLIENTS: usize = 30;
const TTL: Duration = Duration::from_secs(60);

async fn waiters(client: &Client) -> Vec<AttemptId> {
    let state = client.backend.inspect(&lock("job")).await.unwrap();
    let waiters = state.queue.iter().filter_map(|waiter| waiter.attempt);
    waiters.collect()
}

/// Each process enters the queue, and appends its attempt to a file when it holds the lock.
#[tokio::test(flavor = "multi_thread")]
async fn w1_crowd_of_processes_is_served_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let client = connect(&dir.path().join("locks")).await;
    let held = client
        .acquire(&lock("job"), Duration::from_secs(3600))
        .await;
    let mut children: Vec<_> = (0..PROCESSES)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "a_process_in_the_crowd", "--ignored"])
                .env("TENURE_TEST_DIR", dir.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let order = loop {
        let waiters = waiters(&client).await;
        if waiters.len() == PROCESSES {
            break waiters;
        }
        for child in &mut children {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "a process ended early: {ended:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(
        client.remove(&lock("job"), held.attempt).await,
        Removed::AsHolder
    );
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("1 passed"), "{text}");
    }
    let served = std::fs::read_to_string(dir.path().join("served")).unwrap();
    let served: Vec<_> = served.lines().filter_map(AttemptId::parse).collect();
    assert!(served == order, "not in the order of the queue");
}

#[test]
#[ignore = "started by the test above"]
fn a_process_in_the_crowd() {
    common::run_as_child(async |dir| wait_in_crowd(dir).await);
}

async fn wait_in_crowd(dir: &Path) {
    let mut client = connect(&dir.join("locks")).await;
    let (name, attempt) = (lock("job"), AttemptId::random().unwrap());
    join(&client, attempt).await;
    // A waiter of a crowd reports like any other, so that the crowd also changes the state while it
    // waits. A report replaces a lost message.
    let token = loop {
        match tokio::time::timeout(TTL / 3, client.events.recv()).await {
            Ok(Some(BackendEvent::Granted(grant))) => break grant.token,
            Ok(_) => {}
            Err(_) => match client.renew(&name, attempt, None).await {
                Renewed::Granted(grant) => break grant.token,
                Renewed::Waiting(_) => {}
                other => panic!("{other:?}"),
            },
        }
    };
    let renewed = client.renew(&name, attempt, Some(token)).await;
    assert!(matches!(renewed, Renewed::Proved { .. }), "{renewed:?}");
    let mut served = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("served"))
        .unwrap();
    writeln!(served, "{attempt}").unwrap();
    assert_eq!(client.remove(&name, attempt).await, Removed::AsHolder);
    client.backend.close().await;
}

/// Enters the queue. Repeats the request only if this process was kept from running for a large part
/// of the time limit of a request: then the machine was too busy, not the lock.
async fn join(client: &Client, attempt: AttemptId) {
    const STEP: Duration = Duration::from_millis(5);
    const MUCH: Duration = Duration::from_secs(1);
    let stalled = Arc::new(AtomicU64::new(0));
    let measured = Arc::downgrade(&stalled);
    std::thread::spawn(move || {
        while let Some(stalled) = measured.upgrade() {
            let started = Instant::now();
            std::thread::sleep(STEP);
            let stall = started.elapsed().saturating_sub(2 * STEP);
            stalled.fetch_add(stall.as_millis().try_into().unwrap(), Ordering::SeqCst);
        }
    });
    loop {
        stalled.store(0, Ordering::SeqCst);
        match client.enqueue(&lock("job"), attempt, TTL, true).await {
            Ok(Enqueued::Waiting(_)) => return,
            Err(error) => {
                let stall = Duration::from_millis(stalled.load(Ordering::SeqCst));
                assert!(
                    stall >= MUCH,
                    "{error}; the process was stalled for {stall:?}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A process that was stopped while it had the permit keeps it for as long as it is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn x3_stopped_process_with_the_permit_delays_a_crowd_by_a_bounded_time() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let holder = connect(root).await;
    let held = holder.acquire(&lock("job"), TTL).await;
    let permit = root.join("default/job/permit");
    let stopped = std::fs::File::create(&permit).unwrap();
    flock(&stopped, FlockOperation::LockExclusive).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        // Ten times as long as the delay, also on a busy machine.
        let limit = |context: Context| context.with_request_timeout(Duration::from_secs(20));
        let client = connect_with(root, Options::default(), limit).await.unwrap();
        tasks.spawn(async move {
            for _ in 0..10 {
                let attempt = AttemptId::random().unwrap();
                client.wait(&lock("job"), attempt, TTL).await;
                client.remove(&lock("job"), attempt).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(
        holder.remove(&lock("job"), held.attempt).await,
        Removed::AsHolder
    );
    // The permit that the stopped process has is no longer the one that the others use.
    if let Ok(file) = std::fs::File::open(&permit) {
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    }
}

/// Prints the time of an enqueue behind 10, 100 and 1,000 waiters: the median, and the quotient of
/// it and the first.
///
/// `cargo test --release -p tenure-file --test crowd -- --ignored --nocapture cost_of_a_join`
#[test]
#[ignore = "measures"]
fn cost_of_a_join() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let base = std::env::var_os("TENURE_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
        let dir = tempfile::tempdir_in(base).unwrap();
        let crowd = connect(dir.path()).await;
        crowd.acquire(&lock("job"), TTL * 60).await;
        let mut present = 0;
        let mut first = None;
        for count in [10, 100, 1000] {
            while present < count {
                let attempt = AttemptId::random().unwrap();
                crowd.wait(&lock("job"), attempt, TTL * 60).await;
                present += 1;
            }
            let mut times = Vec::new();
            for _ in 0..101 {
                let client = try_connect(dir.path(), Options::default()).await.unwrap();
                let attempt = AttemptId::random().unwrap();
                let started = Instant::now();
                let answer = client.enqueue(&lock("job"), attempt, TTL, true).await;
                times.push(started.elapsed());
                assert!(matches!(answer, Ok(Enqueued::Waiting(_))));
                client.remove(&lock("job"), attempt).await;
                client.backend.close().await;
            }
            times.sort();
            let median = times[times.len() / 2];
            let first = *first.get_or_insert(median);
            let ratio = median.as_secs_f64() / first.as_secs_f64();
            println!("{count:5} waiters: {median:?}, {ratio:.2}");
        }
    });
}
