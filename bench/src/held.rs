//! What 10,000 held locks cost a client in memory.

use std::fs;

use tokio::task::JoinSet;

use crate::contender::{Failure, Tenure};

const LOCKS: usize = 10_000;
/// Acquires under way at the same time.
const AT_ONCE: usize = 64;

/// Bytes of resident memory for each of the locks, while all are held.
pub(crate) async fn per_lock(url: &str) -> Result<f64, Failure> {
    let client = Tenure::connect(url).await?;
    // What the first locks cost is the connection's share.
    let first = hold(client.client(), "first", 200).await?;
    let before = resident()?;
    let held = hold(client.client(), "held", LOCKS).await?;
    let after = resident()?;
    for guard in held.iter().chain(&first) {
        guard.check()?;
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok((after as f64 - before as f64) / LOCKS as f64)
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
