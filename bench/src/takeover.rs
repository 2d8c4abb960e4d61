//! How long a lock stays taken whose holder was killed.

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
    contender::{Failure, Store, client},
    measure::work,
    results::{Results, Work},
};

/// The first word of the process that is killed.
pub(crate) const HOLD: &str = "hold-until-killed";
/// ZooKeeper allows no less than 16 s here.
const TTL: Duration = Duration::from_secs(18);
const HOLDERS: usize = 8;
const TAKEOVER: Work = work(
    "kill -9 of the holder (TTL 18 s) until the next one holds",
    "s",
    "",
);

/// Kills so many holders at once, each of which one waits for.
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
            let got = SystemClock.now();
            let _ = guard.release().await;
            Ok::<_, Failure>((number, got))
        });
    }
    while unwaited(&client).await? {
        if let Some(ended) = waiting.try_join_next() {
            ended??;
            return Err("a lock passed to its waiter while its holder lived".into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    let mut killed = Vec::new();
    for holder in &mut holders {
        killed.push(SystemClock.now());
        holder.kill().await?;
        // Each at another moment of its renewals.
        sleep(Duration::from_millis(230)).await;
    }
    while let Some(outcome) = waiting.join_next().await {
        let (number, got) = outcome??;
        let took = killed.get(number).map(|killed| got.since(*killed));
        let seconds = took.unwrap_or_default().as_secs_f64();
        results.add(name, TAKEOVER, "tenure", 1, seconds);
    }
    Ok(())
}

/// Whether a lock is left that nobody waits for yet.
async fn unwaited(client: &tenure::Client) -> Result<bool, Failure> {
    for number in 0..HOLDERS {
        let name = LockName::new(format!("takeover-{number}"))?;
        if client.inspect(&name).await?.queue.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn hold(url: &str, lock: &str) -> Result<Child, Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([HOLD, url, lock])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let out = child.stdout.take().ok_or("no output of the holder")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).await?;
    if line.trim() == "held" {
        Ok(child)
    } else {
        Err("the holder did not get its lock".into())
    }
}

/// What that process does.
pub(crate) async fn be_killed(url: &str, lock: &str) -> Result<(), Failure> {
    let client = client(url, TTL).await?;
    let _guard = client.lock(lock)?.acquire().await?;
    println!("held");
    std::future::pending().await
}
