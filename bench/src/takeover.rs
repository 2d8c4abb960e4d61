//! The time from the death of a holder to the grant to the next waiter.

use std::{process::Stdio, time::Duration};

use tenure::name::LockName;
use tenure_core::clock::{Clock, SystemClock};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::sleep,
};

use crate::{
    implementation::{Failure, client},
    results::{Metric, Results, metric},
    store::Store,
};

/// The first argument of a process that holds a lock until it is killed.
pub(crate) const HOLD_ARGUMENT: &str = "hold-until-killed";
/// The shortest TTL on ZooKeeper here is 16 s.
const TTL: Duration = Duration::from_secs(18);
const HOLDERS: usize = 8;
const TAKEOVER: Metric = metric(
    "kill -9 of the holder (TTL 18 s) until the next grant",
    "s",
    "",
);

/// The time between two kills, so that each holder dies at another moment of its renewals.
const KILL_INTERVAL: Duration = Duration::from_millis(230);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Kills the holders of several locks, each of which has a waiter.
pub(crate) async fn takeover(
    name: &str,
    store: &Store,
    results: &mut Results,
) -> Result<(), Failure> {
    let client = client(&store.url, TTL).await?;
    let mut waiting = JoinSet::new();
    let mut holders = Vec::new();
    for number in 0..HOLDERS {
        let lock = format!("takeover-{number}");
        holders.push(hold(&store.url, &lock).await?);
        let lock = client.lock(lock)?;
        waiting.spawn(async move {
            let guard = lock.acquire().await?;
            let granted = SystemClock.now();
            let _ = guard.release().await;
            Ok::<_, Failure>((number, granted))
        });
    }
    while any_without_waiter(&client).await? {
        if let Some(ended) = waiting.try_join_next() {
            ended??;
            return Err("a lock passed to its waiter while its holder lived".into());
        }
        sleep(POLL_INTERVAL).await;
    }
    let mut killed = Vec::new();
    for holder in &mut holders {
        killed.push(SystemClock.now());
        holder.kill().await?;
        sleep(KILL_INTERVAL).await;
    }
    while let Some(outcome) = waiting.join_next().await {
        let (number, granted) = outcome??;
        let took = killed.get(number).map(|killed| granted.since(*killed));
        let seconds = took.unwrap_or_default().as_secs_f64();
        results.add(name, TAKEOVER, "tenure", 1, seconds);
    }
    Ok(())
}

/// Returns whether one of the locks has no waiter yet.
async fn any_without_waiter(client: &tenure::Client) -> Result<bool, Failure> {
    for number in 0..HOLDERS {
        let name = LockName::new(format!("takeover-{number}"))?;
        if client.inspect(&name).await?.queue.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Starts a process that holds the lock.
async fn hold(url: &str, lock: &str) -> Result<Child, Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([HOLD_ARGUMENT, url, lock])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let out = child.stdout.take().ok_or("no standard output")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).await?;
    if line.trim() == "held" {
        Ok(child)
    } else {
        Err("the holder did not acquire its lock".into())
    }
}

/// Runs as the process that holds a lock until it is killed.
pub(crate) async fn hold_until_killed(url: &str, lock: &str) -> Result<(), Failure> {
    let client = client(url, TTL).await?;
    let _guard = client.lock(lock)?.acquire().await?;
    println!("held");
    std::future::pending().await
}
