//! What locks cost while they are held (requests, time of the processor, memory), and how soon all of
//! them are proved again after a cut of the connections.

use std::{fs, process::Command, time::Duration};

use tenure_core::clock::{Clock, SystemClock};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    contender::{Failure, Store, client},
    measure::work,
    results::{Results, Work},
};

/// The first word of the process whose memory is measured.
pub(crate) const MEMORY_OF: &str = "memory-of-held-locks";
const MANY: usize = 10_000;
const SIZES: [usize; 3] = [1, 100, MANY];
/// Each lock is renewed at every third of it.
const TTL: Duration = Duration::from_secs(18);
/// Three renewals.
const WINDOW: Duration = Duration::from_secs(18);
/// Acquires under way at the same time.
const AT_ONCE: usize = 64;

const REQUESTS: Work = work(
    "held locks (TTL 18 s): renewal requests",
    "requests/s",
    "locks",
);
const TIME: Work = work(
    "held locks (TTL 18 s): processor time of the client",
    "ms/s",
    "locks",
);
const CUT: Work = work(
    "held locks: a cut of the connections until all are proved again",
    "s",
    "locks",
);
const CUTS: usize = 3;
/// How often it is looked whether they are.
const LOOK: Duration = Duration::from_millis(2);
const MEMORY: Work = work(
    "held locks: memory of the client for each",
    "bytes",
    "locks",
);

/// Holds more and more locks for a while, all by one client.
pub(crate) async fn held(name: &str, store: &Store, results: &mut Results) -> Result<(), Failure> {
    for size in SIZES {
        let client = client(&store.url, TTL).await?;
        let held = hold(&client, &format!("held-{size}"), size).await?;
        let (asked, busy) = ((store.requests)(), processor()?);
        sleep(WINDOW).await;
        let (asked_then, busy_then) = ((store.requests)(), processor()?);
        for guard in &held {
            guard.check()?;
        }
        if let (Some(asked), Some(then)) = (asked, asked_then) {
            let rate = (then - asked) / WINDOW.as_secs_f64();
            results.add(name, REQUESTS, "tenure", size, rate);
        }
        let share = (busy_then - busy) * 1e3 / WINDOW.as_secs_f64();
        results.add(name, TIME, "tenure", size, share);
        client.shutdown(Duration::from_secs(30)).await;
    }
    // In a process of its own: what this one has given back to its allocator would be taken first.
    let words = [MEMORY_OF, &store.url];
    let output = Command::new(std::env::current_exe()?)
        .args(words)
        .output()?;
    if !output.status.success() {
        return Err(format!("{words:?} ended with {}", output.status).into());
    }
    let bytes = String::from_utf8(output.stdout)?.trim().parse()?;
    results.add(name, MEMORY, "tenure", MANY, bytes);
    Ok(())
}

/// Cuts the connections of a client that holds many locks, and waits until each of them was confirmed
/// by an answer that came after the cut. None of them may be lost.
pub(crate) async fn cut(name: &str, store: &Store, results: &mut Results) -> Result<(), Failure> {
    let Some(proxy) = store.proxy()? else {
        return Ok(());
    };
    let client = client(&proxy.url(), TTL).await?;
    let held = hold(&client, "cut", MANY).await?;
    for _ in 0..CUTS {
        proxy.cut()?;
        let begun = SystemClock.now();
        // Only an answer of after the cut moves all deadlines beyond this.
        let last = held.iter().map(tenure::Guard::valid_until).max();
        loop {
            for guard in &held {
                guard.check()?;
            }
            if held.iter().all(|guard| Some(guard.valid_until()) > last) {
                break;
            }
            sleep(LOOK).await;
        }
        let took = SystemClock.now().since(begun).as_secs_f64();
        results.add(name, CUT, "tenure", MANY, took);
    }
    drop(held);
    client.shutdown(Duration::from_secs(30)).await;
    Ok(())
}

/// What that process does.
pub(crate) async fn memory_of(url: &str) -> Result<(), Failure> {
    let client = client(url, TTL).await?;
    // What the first locks cost is the connection's share.
    let first = hold(&client, "first", 200).await?;
    let before = resident()?;
    let held = hold(&client, "memory", MANY).await?;
    let after = resident()?;
    for guard in held.iter().chain(&first) {
        guard.check()?;
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let bytes = (after as f64 - before as f64) / MANY as f64;
    println!("{bytes:.0}");
    drop((held, first));
    client.shutdown(Duration::from_secs(30)).await;
    Ok(())
}

async fn hold(
    client: &tenure::Client,
    prefix: &str,
    count: usize,
) -> Result<Vec<tenure::Guard>, Failure> {
    let mut held = Vec::with_capacity(count);
    let mut asking = JoinSet::new();
    for number in 0..count {
        if asking.len() >= AT_ONCE
            && let Some(done) = asking.join_next().await
        {
            held.push(done??);
        }
        let lock = client.lock(format!("{prefix}-{number}"))?;
        asking.spawn(async move { lock.acquire().await });
    }
    while let Some(done) = asking.join_next().await {
        held.push(done??);
    }
    Ok(held)
}

/// Bytes of memory of this process that are resident.
fn resident() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .ok_or("no VmRSS in /proc/self/status")?;
    Ok(kilobytes * 1024)
}

/// Seconds of processor time that this process has used.
fn processor() -> Result<f64, Failure> {
    let mut nanoseconds = 0.0;
    for task in fs::read_dir("/proc/self/task")? {
        // A thread may have ended meanwhile.
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
