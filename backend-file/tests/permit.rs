//! A process is stopped while it has the permit. It has its own binary, because it counts threads.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{os::unix::fs::MetadataExt, time::Duration};

use rustix::fs::{FlockOperation, flock};
use tenure_core::Client;
use tenure_file::{FileStore, Options};
use tokio::time::sleep;

const TTL: Duration = Duration::from_secs(2);
const WAITERS: usize = 10;

/// Counts the threads of this process that wait for a permit.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.unwrap().path().join("comm")).ok()
    };
    let names = tasks.filter_map(name);
    names
        .filter(|name| name.starts_with("tenure-permit"))
        .count()
}

/// A report waits for the permit for a tenth of its TTL, which is less than the time after which a
/// permit counts as stalled.
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
    // The lock on the file that a stopped process keeps, as in `crowd.rs`.
    let permit = dir.path().join("default/job/permit");
    let stopped = std::fs::File::create(&permit).unwrap();
    flock(&stopped, FlockOperation::LockExclusive).unwrap();
    let mut counts = Vec::new();
    for _ in 0..6 {
        sleep(2 * TTL).await;
        counts.push(threads());
    }
    assert!(held.check().is_ok());
    assert!(counts[5] <= 2 * WAITERS, "{counts:?} threads");
    let replaced = std::fs::metadata(&permit).map(|new| new.ino());
    assert_ne!(replaced.ok(), Some(stopped.metadata().unwrap().ino()));
    drop(held);
}
