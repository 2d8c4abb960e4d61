//! Regressions of the file backend: sequences that once violated a clause.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may panic, and measures"
)]

mod common;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tenure_core::{Client, id::AttemptId, request::Renewed};
use tenure_file::FileStore;

async fn client(root: &Path) -> Client {
    Client::builder(FileStore::new(root))
        .connect()
        .await
        .unwrap()
}

/// R2, W2: a release that is cancelled during its swap is executed without waking the next holder.
/// The repeated removal finds no entry and must wake it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w2_cancelled_release_wakes_the_next() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("locks");
    let (a, b) = (client(&dir).await, client(&dir).await);
    let mut worst = Duration::ZERO;
    for round in 0..40_u64 {
        let name = format!("job-{round}");
        let guard = a.lock(&name).unwrap().acquire().await.unwrap();
        let lock = b.lock(&name).unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut tell = Some(tell);
        let waiter = tokio::spawn(async move {
            let got = lock
                .acquire_observed(None, |_| {
                    tell.take().map(|tell| tell.send(()));
                })
                .await;
            (Instant::now(), got.unwrap().acquired().unwrap())
        });
        told.await.unwrap();
        let begin = Instant::now();
        // Polled until its system calls are running, then dropped.
        let _ = tokio::time::timeout(Duration::from_micros(20 * round), guard.release()).await;
        let (at, held) = waiter.await.unwrap();
        worst = worst.max(at.duration_since(begin));
        drop((guard, held));
        if worst > Duration::from_secs(4) {
            break;
        }
    }
    // A third of the TTL is ten seconds.
    assert!(
        worst < Duration::from_secs(4),
        "a waiter got the free lock after {worst:?} only"
    );
}

/// D1, S2: data from a store is untrusted. A stamp in the future (in this waiter's own entry) must
/// not become its `proved_from`.
#[tokio::test]
async fn d1_stamp_in_the_future_proves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("locks");
    let name = common::lock("job");
    let holder = common::connect(&dir).await;
    let ttl = Duration::from_secs(30);
    holder.acquire(&name, ttl).await;
    let waiter = common::connect(&dir).await;
    let attempt = AttemptId::random().unwrap();
    let waiting = waiter.wait(&name, attempt, ttl).await;
    // A program rewrites the state with a valid checksum and stamps one hour ahead.
    let lock = dir.join("default/job");
    let mut data = None;
    for entry in std::fs::read_dir(&lock).unwrap().flatten() {
        let file = entry.file_name().into_string().unwrap();
        if let Some(id) = file.strip_prefix("head.") {
            data = Some(lock.join(format!("data.{id}")));
        }
    }
    let data = data.unwrap();
    let mut bytes = Vec::new();
    for piece in 0.. {
        let path = if piece == 0 {
            data.clone()
        } else {
            data.with_file_name(format!(
                "{}.{piece}",
                data.file_name().unwrap().to_str().unwrap()
            ))
        };
        let target = std::fs::read_link(&path)
            .unwrap()
            .into_os_string()
            .into_encoded_bytes();
        bytes.extend_from_slice(&target[1..]);
        std::fs::remove_file(&path).unwrap();
        if target[0] == b'.' {
            break;
        }
    }
    let text = String::from_utf8(bytes).unwrap();
    let (header, entries) = text.split_once('\n').unwrap().1.split_once('\n').unwrap();
    let mut out = format!("{header}\n");
    for entry in entries.lines() {
        let mut fields: Vec<String> = entry.split(' ').map(str::to_owned).collect();
        let refreshed: u64 = fields[3].parse().unwrap();
        fields[3] = (refreshed + 3_600_000_000_000).to_string();
        out.push_str(&fields.join(" "));
        out.push('\n');
    }
    let crc = crc32(out.as_bytes());
    std::fs::write(&data, format!("tenure 2 {crc:08x}\n{out}")).unwrap();
    let Renewed::Waiting(answer) = waiter.renew(&name, attempt, None).await else {
        panic!()
    };
    let ahead = answer.proved_from.since(waiting.proved_from);
    assert!(
        ahead < Duration::from_secs(10),
        "proved_from lies {ahead:?} after the enqueue, in the future"
    );
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}
