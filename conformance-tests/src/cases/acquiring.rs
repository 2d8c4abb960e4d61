//! Acquiring: clauses A1 to A5; cancelling is in [`super::cancelling`].

use std::{sync::Arc, time::Duration};

use tenure_core::{
    Acquisition,
    error::ErrorKind,
    id::AttemptId,
    request::{Enqueued, Removed, Renewed, Since},
};

pub(crate) use super::cancelling::{
    cancelled_try_leaves_nothing, cancelled_waiting_leaves_nothing, fenced_attempt_never_enters,
};
use crate::{
    context::{CaseContext, release},
    outcome::{Outcome, broken, ensure},
    wrap::{Fate, Op, Plan},
};

pub(crate) async fn try_does_not_wait(context: Arc<CaseContext>) -> Outcome {
    let (holder, other) = (context.client().await?, context.client().await?);
    let guard = holder.lock("taken")?.acquire().await?;
    let start = context.now();
    let tried = other.lock("taken")?.try_acquire().await?;
    let took = context.now().since(start);
    ensure!(
        matches!(tried, Acquisition::Busy(_)),
        "A1",
        "a taken lock was granted"
    );
    ensure!(
        took < context.slack(),
        "A1",
        "a try of a taken lock took {took:?}"
    );
    release(&guard).await?;
    let tried = other.lock("taken")?.try_acquire().await?;
    ensure!(
        matches!(tried, Acquisition::Acquired(_)),
        "A1",
        "a try of a free lock did not get it"
    );
    Ok(())
}

pub(crate) async fn try_has_a_time_limit(context: Arc<CaseContext>) -> Outcome {
    const LIMIT: Duration = Duration::from_millis(300);
    let plan = Plan::new();
    let client = context
        .client_through(&plan, |builder| builder.request_timeout(LIMIT))
        .await?;
    plan.set(Op::Enqueue, Fate::Hang);
    let start = context.now();
    let Ok(tried) =
        tokio::time::timeout(LIMIT + context.slack(), client.lock("mute")?.try_acquire()).await
    else {
        broken!("A1", "a try of a store that does not answer has no end");
    };
    let took = context.now().since(start);
    match tried {
        Err(error) if error.is_retryable() => {}
        other => broken!(
            "A3",
            "a try on a store that does not answer returned {other:?}"
        ),
    }
    ensure!(
        took >= LIMIT,
        "A1",
        "the try failed after {took:?}, before its {LIMIT:?}"
    );
    Ok(())
}

pub(crate) async fn budget_is_kept(context: Arc<CaseContext>) -> Outcome {
    const BUDGET: Duration = Duration::from_millis(700);
    let (holder, other) = (context.client().await?, context.client().await?);
    let guard = holder.lock("budget")?.acquire().await?;
    let start = context.now();
    let outcome = other.lock("budget")?.acquire_within(BUDGET).await?;
    let took = context.now().since(start);
    ensure!(
        matches!(outcome, Acquisition::Busy(_)),
        "A1",
        "a taken lock was granted"
    );
    ensure!(
        took >= BUDGET,
        "A1",
        "the acquire ended after {took:?}, before its budget {BUDGET:?}"
    );
    ensure!(
        took < BUDGET + context.slack(),
        "A1",
        "waiting took {took:?}, with a budget of {BUDGET:?}"
    );
    // With a sufficient budget the acquire succeeds.
    let lock = other.lock("budget")?;
    let within = context.slack() * 2;
    let waiting = tokio::spawn(async move { lock.acquire_within(within).await });
    let driver = context.driver().await?;
    context.until_waiting(&driver, guard.name(), 1).await?;
    release(&guard).await?;
    let outcome = waiting.await??;
    ensure!(
        matches!(outcome, Acquisition::Acquired(_)),
        "A1",
        "a lock that was released within the budget was not granted"
    );
    Ok(())
}

pub(crate) async fn budget_counts_the_network(context: Arc<CaseContext>) -> Outcome {
    const BUDGET: Duration = Duration::from_millis(400);
    let plan = Plan::new();
    let client = context.client_through(&plan, |builder| builder).await?;
    for fate in [Fate::Hang, Fate::HangReply] {
        plan.set(Op::Enqueue, fate);
        let start = context.now();
        let lock = client.lock("network")?;
        let Ok(outcome) =
            tokio::time::timeout(BUDGET + context.slack(), lock.acquire_within(BUDGET)).await
        else {
            broken!(
                "A1",
                "the budget does not cover a store that does not answer ({fate:?})"
            );
        };
        let took = context.now().since(start);
        ensure!(
            took >= BUDGET,
            "A1",
            "the acquire ended after {took:?}, before its budget {BUDGET:?}"
        );
        ensure!(
            outcome.is_err(),
            "A3",
            "with a store that did not answer ({fate:?}), the acquire returned {outcome:?}"
        );
    }
    let driver = context.driver().await?;
    context
        .until_idle(&driver, &context.name("network")?, context.slack(), "A3")
        .await
}

pub(crate) async fn requests_can_be_repeated(context: Arc<CaseContext>) -> Outcome {
    let (driver, other) = (context.driver().await?, context.driver().await?);
    let ttl = context.long();
    let name = context.name("repeated")?;
    let grant = driver.hold(&name, ttl).await?;
    let waiter = other.wait_for(&name, ttl).await?;
    let behind = driver.wait_for(&name, ttl).await?;
    for _ in 0..3 {
        match other.enqueue(&name, waiter, ttl, true).await? {
            Enqueued::Waiting(_) => {}
            answer => broken!("A2", "the repeated enqueue of a waiter returned {answer:?}"),
        }
        other.renew(&name, waiter, ttl, None).await?;
    }
    let queue = driver.inspect(&name).await?.queue;
    let queue: Vec<_> = queue.iter().filter_map(|waiter| waiter.attempt).collect();
    ensure!(
        queue == [waiter, behind],
        "A2",
        "repeated enqueues should leave one entry in its place; the queue is {queue:?}"
    );
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(driver.remove(&name, grant.attempt, ttl).await?);
    }
    ensure!(
        answers == [Removed::AsHolder, Removed::Absent, Removed::Absent],
        "A2",
        "three removals of the holder returned {answers:?}"
    );
    let Some(next) = other
        .await_grant(&name, waiter, ttl, context.slack())
        .await?
    else {
        broken!(
            "A2",
            "the first waiter does not hold the lock after the release"
        );
    };
    // A late repetition must neither take a second position nor the lock.
    match other.enqueue(&name, waiter, ttl, true).await? {
        Enqueued::Granted(again) if again.token == next.token => {}
        answer => broken!("A2", "the holder's repeated enqueue returned {answer:?}"),
    }
    let state = driver.inspect(&name).await?;
    ensure!(
        state.queue.len() == 1,
        "A2",
        "an entry was made twice: {state:?}"
    );
    Ok(())
}

pub(crate) async fn unknown_outcome_is_an_error(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let client = context.client_through(&plan, |builder| builder).await?;
    let driver = context.driver().await?;
    for (name, holder) in [("unknown-free", false), ("unknown-taken", true)] {
        let held = context.name(name)?;
        let grant = match holder {
            true => Some(driver.hold(&held, context.long()).await?),
            false => None,
        };
        plan.set(Op::Enqueue, Fate::LoseReply);
        let lock = client.lock(name)?;
        let outcome = match holder {
            true => lock.acquire_within(context.slack()).await,
            false => lock.try_acquire().await,
        };
        plan.set(Op::Enqueue, Fate::Pass);
        match outcome {
            Err(error) => ensure!(
                error.kind() == ErrorKind::OutcomeUnknown && error.to_string().contains("unknown"),
                "A3",
                "a lost answer should be an unknown outcome, it is: {error}"
            ),
            Ok(outcome) => broken!("A3", "a lost answer was taken for {outcome:?}"),
        }
        let cleared = context
            .eventually(context.slack(), || async {
                let state = driver.inspect(&held).await?;
                let ours = state.holder.as_ref().and_then(|holder| holder.attempt);
                let left = grant.as_ref().map(|grant| grant.attempt) == ours;
                Ok((left && state.queue.is_empty()).then_some(()))
            })
            .await?;
        ensure!(
            cleared.is_some(),
            "A3",
            "the attempt of unknown outcome stays behind: {:?}",
            driver.inspect(&held).await?
        );
    }
    Ok(())
}

pub(crate) async fn busy_says_who(context: Arc<CaseContext>) -> Outcome {
    let holder = context
        .client_with(|builder| builder.label("the-holder"))
        .await?;
    let other = context.client().await?;
    let guard = holder.lock("who")?.acquire().await?;
    let Acquisition::Busy(seen) = other.lock("who")?.try_acquire().await? else {
        broken!("A5", "a taken lock was granted");
    };
    let label = seen.owner.as_ref().map(|owner| owner.label.as_str());
    ensure!(
        label == Some("the-holder"),
        "A5",
        "the holder is shown as {seen:?}"
    );
    ensure!(
        seen.token.is_none_or(|token| token == guard.token()),
        "A5",
        "the holder's token is {}, it is shown as {seen:?}",
        guard.token()
    );
    let hour = Duration::from_secs(3600);
    let since = match seen.since {
        Some(Since::Granted(at) | Since::Enqueued(at)) => at,
        other => broken!("A5", "since when the lock is held is not shown: {other:?}"),
    };
    let now = std::time::SystemTime::now();
    ensure!(
        since <= now + hour && since + hour >= now,
        "A5",
        "the lock was taken just now, and is shown as taken at {since:?}"
    );
    if let Some(left) = seen.expires_in {
        let ttl = guard.ttl();
        ensure!(
            left <= ttl && left + context.slack() >= ttl,
            "A5",
            "a grant of {ttl:?} that was just made is shown with {left:?} left"
        );
    }
    release(&guard).await?;
    Ok(())
}

pub(crate) async fn busy_leaves_nothing(context: Arc<CaseContext>) -> Outcome {
    let (holder, other) = (context.driver().await?, context.driver().await?);
    let name = context.name("no-trace")?;
    let ttl = context.long();
    let grant = holder.hold(&name, ttl).await?;
    let mut attempts = Vec::new();
    for _ in 0..5 {
        let attempt = AttemptId::random()?;
        match other.enqueue(&name, attempt, ttl, false).await? {
            Enqueued::Busy(_) => attempts.push(attempt),
            answer => broken!("A5", "a try of a taken lock returned {answer:?}"),
        }
    }
    let state = holder.inspect(&name).await?;
    ensure!(
        state.queue.is_empty(),
        "A5",
        "attempts that did not want to wait are in the queue: {:?}",
        state.queue
    );
    holder.remove(&name, grant.attempt, ttl).await?;
    let state = holder.inspect(&name).await?;
    ensure!(
        state.holder.is_none(),
        "A5",
        "an attempt with the reply \"busy\" holds the lock: {:?}",
        state.holder
    );
    for attempt in attempts {
        match other.renew(&name, attempt, ttl, None).await? {
            Renewed::Gone(_) => {}
            answer => broken!(
                "A5",
                "the store knows an attempt with the reply \"busy\": {answer:?}"
            ),
        }
    }
    Ok(())
}
