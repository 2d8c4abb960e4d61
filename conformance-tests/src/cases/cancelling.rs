//! Cancelling an acquire at every point (clause A4).

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tenure_core::{
    id::AttemptId,
    request::{Enqueued, Remove, Removed},
};

use crate::{
    context::CaseContext,
    outcome::{Outcome, broken, ensure},
    wrap::{Fate, Op, Plan},
};

/// The number of points at which an acquire is cancelled.
const POINTS: u32 = 24;

/// Polls a future this number of times, with pauses, and drops it. Returns whether it completed.
async fn drop_after<T>(polls: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = poll_fn(|task| Poll::Ready(future.as_mut().poll(task))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    None
}

/// Delays requests and replies, so that there are points between them.
fn slow() -> Fate {
    Fate::Delay {
        before: Duration::from_millis(8),
        after: Duration::from_millis(8),
    }
}

pub(crate) async fn cancelled_try_leaves_nothing(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let client = context.client_through(&plan, |builder| builder).await?;
    let driver = context.driver().await?;
    let name = context.name("cancelled-try")?;
    plan.set(Op::Enqueue, slow());
    let mut dropped = 0;
    for polls in 0..POINTS {
        match drop_after(polls, client.lock_named(name.clone()).try_acquire()).await {
            // The guard, if any, is dropped and released in the background.
            Some(done) => drop(done?),
            None => dropped += 1,
        }
        context
            .until_idle(&driver, &name, context.slack(), "A4")
            .await?;
    }
    ensure!(
        dropped >= 3,
        "A4",
        "only {dropped} tries were cancelled; this case shows nothing"
    );
    // No entry may appear later either.
    tokio::time::sleep(Duration::from_millis(100)).await;
    context
        .until_idle(&driver, &name, Duration::ZERO, "A4")
        .await
}

pub(crate) async fn cancelled_waiting_leaves_nothing(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let client = context.client_through(&plan, |builder| builder).await?;
    let (holder, third) = (context.driver().await?, context.driver().await?);
    let name = context.name("cancelled-wait")?;
    let ttl = context.long();
    plan.set(Op::Enqueue, slow());
    for polls in 0..POINTS {
        let grant = holder.hold(&name, ttl).await?;
        let lock = client.lock_named(name.clone());
        // At some points the holder releases first, so that the grant and the cancellation overlap.
        let releases = polls % 3 == 2;
        let waiting = drop_after(polls, lock.acquire());
        let done = if releases {
            let release = async {
                tokio::time::sleep(Duration::from_millis(u64::from(polls) * 2)).await;
                holder.remove(&name, grant.attempt, ttl).await
            };
            let (done, removed) = tokio::join!(waiting, release);
            removed?;
            done
        } else {
            let done = waiting.await;
            ensure!(done.is_none(), "X1", "a taken lock was granted");
            done
        };
        drop(done.transpose()?);
        if !releases {
            context.until_waiting(&holder, &name, 0).await?;
            let attempt = third.wait_for(&name, ttl).await?;
            holder.remove(&name, grant.attempt, ttl).await?;
            let turn = third.await_grant(&name, attempt, ttl, context.slack());
            if turn.await?.is_none() {
                broken!(
                    "A4",
                    "after a cancelled acquire the next contender does not get the lock"
                );
            }
            third.remove(&name, attempt, ttl).await?;
        }
        context
            .until_idle(&holder, &name, context.slack(), "A4")
            .await?;
    }
    Ok(())
}

pub(crate) async fn fenced_attempt_never_enters(context: Arc<CaseContext>) -> Outcome {
    let (driver, other) = (context.driver().await?, context.driver().await?);
    let ttl = context.long();
    // An enqueue that is interrupted at any point and removed at once.
    for taken in [false, true] {
        let name = context.name(if taken { "cut-taken" } else { "cut-free" })?;
        if taken {
            other.hold(&name, ttl).await?;
        }
        for polls in 0..POINTS {
            let attempt = AttemptId::random()?;
            let _ = drop_after(polls, driver.enqueue(&name, attempt, ttl, true)).await;
            let remove = Remove::new(name.clone(), attempt, ttl, false);
            driver.backend().remove(remove).await?;
            let state = other.inspect(&name).await?;
            ensure!(
                state.holder.is_some() == taken && state.queue.is_empty(),
                "A4",
                "an enqueue that was cut off and removed has an entry: {state:?}"
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let state = other.inspect(&name).await?;
        ensure!(
            state.holder.is_some() == taken && state.queue.is_empty(),
            "A4",
            "an enqueue that was cut off and removed has an entry after all: {state:?}"
        );
    }
    // An enqueue that arrives after its removal.
    let ttl = context.short();
    for wait in [false, true] {
        let name = context.name(if wait { "late-wait" } else { "late-try" })?;
        let attempt = AttemptId::random()?;
        let remove = Remove::new(name.clone(), attempt, ttl, false);
        for _ in 0..2 {
            let removed = driver.backend().remove(remove.clone()).await?;
            ensure!(
                removed == Removed::Absent,
                "R1",
                "the removal of an unknown attempt returned {removed:?}"
            );
        }
        let answer = driver.enqueue(&name, attempt, ttl, wait).await;
        let gone = matches!(answer, Ok(Enqueued::Gone) | Err(_));
        // Without a tombstone, the TTL of the entry is the bound.
        ensure!(
            gone || context.need_own_ttl().is_ok(),
            "A4",
            "the enqueue of a removed attempt returned {answer:?}"
        );
        let within = if gone {
            Duration::ZERO
        } else {
            context.takeover(ttl, ttl)
        };
        context.until_idle(&other, &name, within, "A4").await?;
    }
    Ok(())
}
