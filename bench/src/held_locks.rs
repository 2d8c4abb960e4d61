//! The costs of held locks (requests, processor time, memory), and the time until all of them are
//! renewed after the connections break.

use std::{fs, process::Command, time::Duration};

use tenure_core::clock::{Clock, SystemClock};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    implementation::{Failure, client},
    results::{Metric, Results, metric},
    store::Store,
};

/// The first argument of the process whose memory is measured.
pub(crate) const MEMORY_ARGUMENT: &str = "memory-of-held-locks";
const MAX_HELD: usize = 10_000;
const SIZES: [usize; 3] = [1, 100, MAX_HELD];
/// Each lock is renewed after a third of this time.
const TTL: Duration = Duration::from_secs(18);
/// How long requests and processor time are counted: three renewals.
const WINDOW: Duration = Duration::from_secs(18);
const MAX_CONCURRENT_ACQUIRES: usize = 64;

const REQUESTS: Metric = metric(
    "held locks (TTL 18 s): renewal requests",
    "requests/s",
    "locks",
);
const PROCESSOR_TIME: Metric = metric(
    "held locks (TTL 18 s): processor time of the client",
    "ms/s",
    "locks",
);
const RECONNECT: Metric = metric(
    "held locks: from the loss of the connections until all are renewed",
    "s",
    "locks",
);
const RECONNECTS: usize = 3;
const POLL_INTERVAL: Duration = Duration::from_millis(2);
const MEMORY: Metric = metric(
    "held locks: memory of the client for each lock",
    "bytes",
    "locks",
);

/// How long a client may take to release all its locks.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// Measures a client that holds 1, 100 and 10 000 locks.
pub(crate) async fn held(name: &str, store: &Store, results: &mut Results) -> Result<(), Failure> {
    for size in SIZES {
        let client = client(&store.url, TTL).await?;
        let held = hold(&client, &format!("held-{size}"), size).await?;
        let (requests_before, time_before) = ((store.requests)(), processor_time()?);
        sleep(WINDOW).await;
        let (requests_after, time_after) = ((store.requests)(), processor_time()?);
        for guard in &held {
            guard.check()?;
        }
        if let (Some(before), Some(after)) = (requests_before, requests_after) {
            let rate = (after - before) / WINDOW.as_secs_f64();
            results.add(name, REQUESTS, "tenure", size, rate);
        }
        let share = (time_after - time_before) * 1e3 / WINDOW.as_secs_f64();
        results.add(name, PROCESSOR_TIME, "tenure", size, share);
        client.shutdown(SHUTDOWN_TIMEOUT).await;
    }
    // A separate process, because this one would first reuse memory that its allocator has kept.
    let arguments = [MEMORY_ARGUMENT, &store.url];
    let output = Command::new(std::env::current_exe()?)
        .args(arguments)
        .output()?;
    if !output.status.success() {
        return Err(format!("{arguments:?} ended with {}", output.status).into());
    }
    let bytes = String::from_utf8(output.stdout)?.trim().parse()?;
    results.add(name, MEMORY, "tenure", MAX_HELD, bytes);
    Ok(())
}

/// Breaks the connections of a client that holds many locks, and measures the time until a reply of
/// a later request has renewed each of them. No lock may be lost.
pub(crate) async fn reconnect(
    name: &str,
    store: &Store,
    results: &mut Results,
) -> Result<(), Failure> {
    let Some(proxy) = store.proxy()? else {
        return Ok(());
    };
    let client = client(&proxy.url(), TTL).await?;
    let held = hold(&client, "reconnect", MAX_HELD).await?;
    for _ in 0..RECONNECTS {
        proxy.cut()?;
        let begin = SystemClock.now();
        // Only replies to requests after this moment move every deadline beyond the last one.
        let last = held.iter().map(tenure::Guard::valid_until).max();
        loop {
            for guard in &held {
                guard.check()?;
            }
            if held.iter().all(|guard| Some(guard.valid_until()) > last) {
                break;
            }
            sleep(POLL_INTERVAL).await;
        }
        let took = SystemClock.now().since(begin).as_secs_f64();
        results.add(name, RECONNECT, "tenure", MAX_HELD, took);
    }
    drop(held);
    client.shutdown(SHUTDOWN_TIMEOUT).await;
    Ok(())
}

/// Runs as the process whose memory is measured, and prints the bytes for each lock.
pub(crate) async fn print_memory(url: &str) -> Result<(), Failure> {
    let client = client(url, TTL).await?;
    // The first locks also pay for the connection.
    let first = hold(&client, "first", 200).await?;
    let before = resident_bytes()?;
    let held = hold(&client, "memory", MAX_HELD).await?;
    let after = resident_bytes()?;
    for guard in held.iter().chain(&first) {
        guard.check()?;
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let bytes = (after as f64 - before as f64) / MAX_HELD as f64;
    println!("{bytes:.0}");
    drop((held, first));
    client.shutdown(SHUTDOWN_TIMEOUT).await;
    Ok(())
}

/// Acquires `count` locks.
async fn hold(
    client: &tenure::Client,
    prefix: &str,
    count: usize,
) -> Result<Vec<tenure::Guard>, Failure> {
    let mut held = Vec::with_capacity(count);
    let mut acquiring = JoinSet::new();
    for number in 0..count {
        if acquiring.len() >= MAX_CONCURRENT_ACQUIRES
            && let Some(done) = acquiring.join_next().await
        {
            held.push(done??);
        }
        let lock = client.lock(format!("{prefix}-{number}"))?;
        acquiring.spawn(async move { lock.acquire().await });
    }
    while let Some(done) = acquiring.join_next().await {
        held.push(done??);
    }
    Ok(held)
}

/// Returns the resident memory of this process.
fn resident_bytes() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .ok_or("no VmRSS in /proc/self/status")?;
    Ok(kilobytes * 1024)
}

/// Returns the processor time of this process in seconds.
fn processor_time() -> Result<f64, Failure> {
    let mut nanoseconds = 0.0;
    for task in fs::read_dir("/proc/self/task")? {
        // The thread may have ended.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let used = text
            .split(' ')
            .next()
            .and_then(|used| used.parse::<f64>().ok());
        nanoseconds += used.ok_or("no times in /proc/self/task/*/schedstat")?;
    }
    Ok(nanoseconds / 1e9)
}
