//! Finds of an adversarial review; each test states what it shows to be broken.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test may panic, and measures"
)]

use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tenure_core::Client;
use tenure_file::{FileStore, Options};
use tokio::time::sleep;

const TTL: Duration = Duration::from_secs(2);
const WAITERS: usize = 10;

/// The threads of this process that wait for a permit. The kernel cuts a name after 15 bytes.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names
        .filter(|name| name.starts_with("tenure-permit"))
        .count()
}

/// FAILS. A process is stopped (SIGSTOP) while it has the permit. Only a wait of `STALL_TIMEOUT` (2 s)
/// replaces the permit, but a report waits for a tenth of its TTL (`cas/transaction.rs`, `of_entry`),
/// which is shorter for every TTL below 20 s. So nobody replaces it, and each report leaves a thread
/// in `flock` (`permit.rs`, `BusyPermit::wait`) for as long as the process is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_process_with_the_permit_costs_no_thread_for_each_report() {
    let dir = tempfile::tempdir().unwrap();
    let connect = || async {
        let store = FileStore::open(dir.path(), Options::default());
        Client::builder(store).ttl(TTL).connect().await.unwrap()
    };
    let holder = connect().await;
    let held = holder.lock("job").unwrap().acquire().await.unwrap();
    for _ in 0..WAITERS {
        let lock = connect().await.lock("job").unwrap();
        tokio::spawn(async move { lock.acquire().await });
    }
    while holder.inspect(held.name()).await.unwrap().queue.len() < WAITERS {
        sleep(Duration::from_millis(20)).await;
    }
    // What a stopped process leaves, as in `crowd.rs`.
    let permit = dir.path().join("default/job/permit");
    let stopped = std::fs::File::create(&permit).unwrap();
    flock(&stopped, FlockOperation::LockExclusive).unwrap();
    let mut counts = Vec::new();
    for _ in 0..6 {
        sleep(2 * TTL).await;
        counts.push(threads());
    }
    println!("threads every {:?}: {counts:?}", 2 * TTL);
    assert!(held.check().is_ok());
    assert!(counts[5] <= 2 * WAITERS, "{counts:?} threads");
}
