//! Exclusion: clauses X1 to X3.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tenure_core::Acquisition;
use tokio::task::JoinSet;

use crate::{
    context::{CaseContext, release},
    outcome::{Failure, Outcome, Stop, broken, ensure},
    worker::{Job, Report, Worker},
};

/// The maximum number of rounds of each task; a slow store has fewer.
const ROUNDS: usize = 40;
const TIME_BUDGET: Duration = Duration::from_secs(10);

pub(crate) async fn tasks_never_overlap(context: Arc<CaseContext>) -> Outcome {
    let inside = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    let until = context.now() + TIME_BUDGET;
    for _ in 0..3 {
        let client = context.client().await?;
        for _ in 0..3 {
            let (context, inside) = (Arc::clone(&context), Arc::clone(&inside));
            let lock = client.lock("turns")?;
            tasks.spawn(async move {
                let mut rounds = 0;
                while rounds < ROUNDS && (rounds < 3 || context.now() < until) {
                    let guard = lock.acquire().await?;
                    ensure!(
                        guard.check().is_ok(),
                        "X1",
                        "a guard is not held just after its acquire"
                    );
                    let met = inside.swap(true, Ordering::SeqCst);
                    ensure!(
                        !met || guard.check().is_err(),
                        "X1",
                        "two tasks were in the critical section at the same time"
                    );
                    tokio::task::yield_now().await;
                    inside.store(false, Ordering::SeqCst);
                    release(&guard).await?;
                    rounds += 1;
                }
                Ok::<_, Stop>(rounds)
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        let rounds = done??;
        ensure!(rounds >= 3, "X1", "a task had only {rounds} rounds");
    }
    Ok(())
}

pub(crate) async fn processes_never_overlap(context: Arc<CaseContext>) -> Outcome {
    const WORKERS: u64 = 4;
    const ROUNDS: u32 = 25;
    let directory = tempfile::tempdir()?;
    let mut tasks = JoinSet::new();
    for _ in 0..WORKERS {
        let job = Job::Count { rounds: ROUNDS };
        let mut worker = Worker::start(&context, job, "count", context.long(), directory.path())?;
        tasks.spawn(async move {
            let mut turns = Vec::new();
            loop {
                match worker.report().await? {
                    Report::Held { token, count } => turns.push((token, count)),
                    Report::Done => return Ok::<_, Stop>(turns),
                    Report::Broken(text) => broken!("X1", "a process reports: {text}"),
                    other @ Report::Believed { .. } => {
                        broken!("X1", "unexpected report of a process: {other:?}")
                    }
                }
            }
        });
    }
    let mut turns = Vec::new();
    while let Some(done) = tasks.join_next().await {
        turns.extend(done??);
    }
    turns.sort_unstable();
    let expected = WORKERS * u64::from(ROUNDS);
    let counts: Vec<u64> = turns.iter().map(|(_, count)| *count).collect();
    ensure!(
        counts == (0..expected).collect::<Vec<_>>(),
        "X1",
        "in the order of the tokens the counter should read 0 to {}, it read {counts:?}",
        expected - 1
    );
    let rises = turns.windows(2).all(|pair| pair[0].0 < pair[1].0);
    ensure!(rises, "T1", "two processes held the lock under one token");
    Ok(())
}

pub(crate) async fn one_client_is_not_reentrant(context: Arc<CaseContext>) -> Outcome {
    let client = context.client().await?;
    let lock = client.lock("once")?;
    let guard = lock.acquire().await?;
    for attempt in [
        lock.try_acquire().await?,
        client.lock("once")?.try_acquire().await?,
    ] {
        ensure!(
            matches!(attempt, Acquisition::Busy(_)),
            "X2",
            "a client that holds the lock got it a second time"
        );
    }
    ensure!(guard.check().is_ok(), "X2", "trying again ended the grant");
    release(&guard).await?;
    Ok(())
}

pub(crate) async fn silent_holder_keeps_its_ttl(context: Arc<CaseContext>) -> Outcome {
    let (holder, other) = (context.driver().await?, context.driver().await?);
    let ttl = context.short();
    let name = context.name("silent")?;
    // With the driver only: the core's behaviour is not the subject here.
    let before = holder.now();
    let grant = holder.hold(&name, ttl).await?;
    let proved = grant.proved_from.unwrap_or(before);
    ensure!(
        proved >= before && proved <= holder.now(),
        "D1",
        "the proof should count from within the request, it counts from {proved:?}"
    );
    let attempt = other.wait_for(&name, ttl).await?;
    let within = context.takeover(grant.ttl, ttl);
    let Some(_) = other.await_grant(&name, attempt, ttl, within).await? else {
        broken!("X3", "the lock was not granted again within {within:?}");
    };
    let passed = other.now().since(proved);
    // Clock rates may differ by one percent.
    let least = grant.ttl * 99 / 100;
    ensure!(
        passed >= least,
        "X3",
        "the lock was granted again {passed:?} after the last proof, before the TTL of {:?}",
        grant.ttl
    );
    Ok(())
}

pub(crate) async fn silent_holder_is_succeeded(context: Arc<CaseContext>) -> Outcome {
    context.need_own_ttl()?;
    let ttl = context.short();
    let first = context.client_with(|builder| builder.ttl(ttl)).await?;
    let second = context.client_with(|builder| builder.ttl(ttl)).await?;
    let guard = first.lock("taken-over")?.acquire().await?;
    let token = guard.token();
    let deadline = guard.valid_until();
    guard.abandon();
    // The last reported deadline of the guard is before the end of the TTL. The bound counts from a proof
    // that is not later than now.
    let bound = context.takeover(ttl, ttl);
    let start = context.now();
    let guard = match second.lock("taken-over")?.acquire_within(bound).await? {
        Acquisition::Acquired(guard) => guard,
        Acquisition::Busy(holder) => {
            broken!("X3", "after {bound:?} the lock is still held by {holder:?}")
        }
        other => broken!("X3", "unexpected: {other:?}"),
    };
    let now = context.now();
    ensure!(
        now >= deadline,
        "X3",
        "the lock was granted again before the abandoned guard's deadline"
    );
    ensure!(
        guard.token() > token,
        "T1",
        "the token did not rise over an expiry"
    );
    ensure!(
        now.since(start) <= bound,
        "X3",
        "it took {:?}",
        now.since(start)
    );
    release(&guard).await?;
    late_waiter_succeeds(&context).await
}

/// A waiter that comes late: where clients cannot compare their clocks, it knows only since its first
/// look that the holder is silent.
async fn late_waiter_succeeds(context: &CaseContext) -> Outcome {
    /// A machine that stands still for longer is noticed, and the case is repeated.
    const GRACE: Duration = Duration::from_millis(300);
    let ttl = context.steady();
    let first = context.client_with(|builder| builder.ttl(ttl)).await?;
    let second = context.client_with(|builder| builder.ttl(ttl)).await?;
    let guard = first.lock("late")?.acquire().await?;
    // The last proof is not later.
    let proved = context.now();
    guard.abandon();
    context.sleep_until(proved + ttl * 9 / 10).await;
    let guard = second.lock("late")?.acquire().await?;
    let (took, bound) = (
        context.now().since(proved),
        context.capabilities().takeover.of(ttl, ttl),
    );
    ensure!(
        took <= bound + GRACE,
        "X3",
        "a waiter that came after nine tenths of the TTL got the lock {took:?} after the holder's last \
         proof; the declared takeover bound is {bound:?}"
    );
    release(&guard).await
}

pub(crate) async fn killed_process_is_succeeded(context: Arc<CaseContext>) -> Outcome {
    let directory = tempfile::tempdir()?;
    // Longer than the start of a worker, so that the lower bound is meaningful.
    let ttl = context.steady();
    let mut worker = Worker::start(&context, Job::Hold, "killed", ttl, directory.path())?;
    let Report::Held { token, .. } = worker.report().await? else {
        return Err(Failure::new(None, "the worker did not acquire the lock").into());
    };
    let client = context.client_with(|builder| builder.ttl(ttl)).await?;
    let lock = client.lock("killed")?;
    ensure!(
        matches!(lock.try_acquire().await?, Acquisition::Busy(_)),
        "X1",
        "a lock that another process holds was granted"
    );
    worker.kill().await?;
    let start = context.now();
    let bound = context.takeover(ttl, ttl);
    let Some(guard) = lock.acquire_within(bound).await?.acquired() else {
        broken!(
            "X3",
            "{bound:?} after its holder was killed the lock is not granted"
        );
    };
    ensure!(guard.token().get() > token, "T1", "the token did not rise");
    // The worker renewed every third of its TTL, so that its last proof was not older.
    let passed = context.now().since(start);
    ensure!(
        passed >= ttl / 2,
        "X3",
        "the lock was granted {passed:?} after its holder was killed, well before its TTL of {ttl:?}"
    );
    release(&guard).await?;
    Ok(())
}
