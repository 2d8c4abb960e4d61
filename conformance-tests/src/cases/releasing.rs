//! Releasing: clauses R1 to R5.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    Client, Release,
    error::ErrorKind,
    id::AttemptId,
    name::LockName,
    request::{List, Removed},
};

use crate::{
    context::CaseContext,
    driver::Driver,
    outcome::{Failure, Outcome, broken, ensure},
    wrap::{Fate, Op, Plan},
};

pub(crate) async fn says_what_it_did(context: Arc<CaseContext>) -> Outcome {
    let driver = context.driver().await?;
    let ttl = context.long();
    let name = context.name("says")?;
    let grant = driver.hold(&name, ttl).await?;
    let waiter = driver.wait_for(&name, ttl).await?;
    let answers = [
        driver.remove(&name, AttemptId::random()?, ttl).await?,
        driver.remove(&name, waiter, ttl).await?,
        driver.remove(&name, waiter, ttl).await?,
        driver.remove(&name, grant.attempt, ttl).await?,
        driver.remove(&name, grant.attempt, ttl).await?,
    ];
    let expected = [
        Removed::Absent,
        Removed::AsWaiter,
        Removed::Absent,
        Removed::AsHolder,
        Removed::Absent,
    ];
    ensure!(
        answers == expected,
        "R1",
        "the removals of an unknown attempt, a waiter (twice) and a holder (twice) returned {answers:?}"
    );
    let client = context.client().await?;
    let guard = client.lock("says")?.acquire().await?;
    for _ in 0..2 {
        let outcome = guard.release().await;
        ensure!(
            matches!(outcome, Release::Released),
            "R1",
            "the release of a held lock, or its repetition, returned {outcome:?}"
        );
    }
    Ok(())
}

pub(crate) async fn stale_one_frees_nobody(context: Arc<CaseContext>) -> Outcome {
    let (stale, holder) = (context.driver().await?, context.driver().await?);
    let name = context.name("stale")?;
    let ttl = context.short();
    let first = stale.hold(&name, ttl).await?;
    let second = holder.wait_for(&name, context.long()).await?;
    let bound = context.takeover(first.ttl, context.long());
    let turn = holder.await_grant(&name, second, context.long(), bound);
    let Some(grant) = turn.await? else {
        broken!("X3", "the expired lock was not granted again");
    };
    for _ in 0..2 {
        let removed = stale.remove(&name, first.attempt, ttl).await?;
        ensure!(
            removed == Removed::Absent,
            "R1",
            "the stale release returned {removed:?}"
        );
    }
    let state = holder.inspect(&name).await?;
    let seen = state.holder.as_ref().and_then(|holder| holder.attempt);
    ensure!(
        seen == Some(grant.attempt),
        "R1",
        "a stale release has ended the next grant; the lock is now {state:?}"
    );
    Ok(())
}

pub(crate) async fn stale_one_of_the_same_client_frees_nobody(
    context: Arc<CaseContext>,
) -> Outcome {
    let (driver, other) = (context.driver().await?, context.driver().await?);
    let name = context.name("own-stale")?;
    let ttl = context.long();
    let first = driver.hold(&name, ttl).await?;
    // Evicted, not released: its release follows later.
    other.backend().evict(&name, first.token).await?;
    let second = driver.hold(&name, ttl).await?;
    let removed = driver.remove(&name, first.attempt, ttl).await?;
    ensure!(
        removed == Removed::Absent,
        "R1",
        "the release of a client's earlier grant returned {removed:?}"
    );
    let state = other.inspect(&name).await?;
    let seen = state.holder.as_ref().and_then(|holder| holder.attempt);
    ensure!(
        seen == Some(second.attempt),
        "R1",
        "the release of a client's earlier grant has freed its present one; the lock is now {state:?}"
    );
    Ok(())
}

pub(crate) async fn unanswered_one_is_found_out(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let client = context.client_through(&plan, |builder| builder).await?;
    let driver = context.driver().await?;
    let guard = client.lock("unanswered")?.acquire().await?;
    plan.set_times(Op::Remove, Fate::LoseReply, 1);
    let outcome = guard.release().await;
    ensure!(
        matches!(outcome, Release::Released),
        "R1",
        "the reply to the removal was lost and the entry is absent, but the release returned {outcome:?}"
    );
    let tried = driver.try_hold(guard.name(), context.long()).await?;
    ensure!(tried.is_some(), "R2", "a released lock is taken");
    Ok(())
}

pub(crate) async fn hanging_one_is_unknown(context: Arc<CaseContext>) -> Outcome {
    const LIMIT: Duration = Duration::from_millis(400);
    let plan = Plan::new();
    let client = context
        .client_through(&plan, |builder| builder.request_timeout(LIMIT))
        .await?;
    let driver = context.driver().await?;
    let guard = client.lock("hanging")?.acquire().await?;
    plan.set(Op::Remove, Fate::Hang);
    let within = LIMIT * 2 + context.slack();
    match tokio::time::timeout(within, guard.release()).await {
        Ok(Release::Unknown(error)) => ensure!(
            error.kind() == ErrorKind::OutcomeUnknown,
            "R1",
            "nothing was heard of the release; the error is: {error}"
        ),
        Ok(outcome) => broken!("R1", "a release without a reply returned {outcome:?}"),
        Err(_) => broken!("R1", "a release of which nothing is heard has no end"),
    }
    ensure!(
        guard.check().is_err(),
        "R1",
        "a guard with an unknown release is held"
    );
    plan.set(Op::Remove, Fate::Pass);
    let again = guard.release().await;
    ensure!(
        matches!(again, Release::Released),
        "R1",
        "with an available store, the repeated release returned {again:?}"
    );
    context
        .until_idle(&driver, guard.name(), context.slack(), "R2")
        .await
}

pub(crate) async fn acknowledged_one_frees_at_once(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let client = context.client_through(&plan, |builder| builder).await?;
    let other = context.driver().await?;
    let ttl = context.long();
    let guard = client.lock("at-once")?.acquire().await?;
    let outcome = guard.release().await;
    ensure!(
        matches!(outcome, Release::Released),
        "R1",
        "a release returned {outcome:?}"
    );
    let Some(grant) = other.try_hold(guard.name(), ttl).await? else {
        broken!("R2", "a lock whose release was acknowledged is taken");
    };
    other.remove(guard.name(), grant.attempt, ttl).await?;

    let guard = client.lock("at-once")?.acquire().await?;
    let waiter = other.wait_for(guard.name(), ttl).await?;
    let outcome = guard.release().await;
    plan.silence();
    ensure!(
        matches!(outcome, Release::Released),
        "R1",
        "a release returned {outcome:?}"
    );
    let turn = other.await_grant(guard.name(), waiter, ttl, context.slack());
    ensure!(
        turn.await?.is_some(),
        "R2",
        "the release was acknowledged and its client cut off; the next waiter does not get the lock"
    );
    Ok(())
}

async fn until_taken(context: &CaseContext, other: &Driver, name: &LockName, how: &str) -> Outcome {
    let taken = context
        .eventually(context.slack(), || other.try_hold(name, context.long()))
        .await?;
    let Some(grant) = taken else {
        broken!(
            "R3",
            "a guard dropped {how} was not released in the background"
        );
    };
    other.remove(name, grant.attempt, context.long()).await?;
    Ok(())
}

pub(crate) async fn dropped_guard_releases(context: Arc<CaseContext>) -> Outcome {
    let client: Client = context.client().await?;
    let other = context.driver().await?;
    let name = context.name("dropped")?;
    let lock = client.lock_named(name.clone());

    drop(lock.acquire().await?);
    until_taken(&context, &other, &name, "inside of a runtime").await?;

    let guard = lock.acquire().await?;
    let outside = std::thread::spawn(move || drop(guard));
    let ended = tokio::task::spawn_blocking(move || outside.join()).await?;
    ensure!(
        ended.is_ok(),
        "R3",
        "dropping a guard outside of a runtime panicked"
    );
    until_taken(&context, &other, &name, "outside of a runtime").await?;

    let guard = lock.acquire().await?;
    let panicking = tokio::spawn(async move {
        let _guard = guard;
        // Without the message of a panic on standard error.
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    ensure!(
        panicking.await.is_err(),
        "R3",
        "the panic of the case was swallowed"
    );
    until_taken(&context, &other, &name, "in a panic").await?;

    let guard = lock.acquire().await?;
    let start = context.now();
    drop(guard);
    let took = context.now().since(start);
    ensure!(
        took < Duration::from_millis(500),
        "R3",
        "dropping a guard blocked for {took:?}"
    );
    until_taken(&context, &other, &name, "at last").await
}

pub(crate) async fn nothing_stays_after_many_cycles(context: Arc<CaseContext>) -> Outcome {
    const CYCLES: u32 = 10_000;
    /// The time limit of all cycles. A slow store has fewer cycles, but at least [`MIN_CYCLES`].
    const TIME_BUDGET: Duration = Duration::from_secs(20);
    const MIN_CYCLES: u32 = 500;
    let client = context.client().await?;
    let driver = context.driver().await?;
    let start = context.now();
    let mut cycles = 0;
    while cycles < CYCLES && (cycles < MIN_CYCLES || context.now().since(start) < TIME_BUDGET) {
        // Half of the cycles use one name, the other half a hundred names.
        let name = match cycles % 2 {
            0 => "cycle".to_owned(),
            _ => format!("cycle-{}", cycles / 2 % 100),
        };
        let guard = client.lock(name)?.acquire().await?;
        if cycles % 10 == 9 {
            drop(guard);
        } else {
            let outcome = guard.release().await;
            ensure!(
                matches!(outcome, Release::Released),
                "R1",
                "a release returned {outcome:?}"
            );
        }
        cycles += 1;
    }
    let listed = context
        .eventually(context.slack(), || async {
            let listed = super::inspect_evict::list_all(&driver, List::new("", 64)).await?;
            Ok(listed.is_empty().then_some(()))
        })
        .await?;
    ensure!(
        listed.is_some(),
        "R4",
        "after {cycles} cycles the listing still shows locks"
    );
    for number in 0..100 {
        let name = context.name(&format!("cycle-{number}"))?;
        let state = driver.inspect(&name).await?;
        ensure!(
            state.holder.is_none() && state.queue.is_empty(),
            "R4",
            "after {cycles} cycles something stays: {state:?}"
        );
    }
    ensure!(
        client.live_attempts() == 0,
        "R4",
        "after {cycles} cycles the client still keeps {} attempts",
        client.live_attempts()
    );
    if let Some(entries) = context.env().residue().await? {
        ensure!(
            entries == 0 || context.capabilities().residue != Some(Duration::ZERO),
            "R4",
            "the backend declares that nothing stays, and {entries} locks have state"
        );
    }
    Ok(())
}

pub(crate) async fn discard_needs_a_free_lock(context: Arc<CaseContext>) -> Outcome {
    let (holder, operator) = (context.driver().await?, context.driver().await?);
    let ttl = context.long();
    let name = context.name("discarded")?;
    let grant = holder.hold(&name, ttl).await?;
    let waiter = operator.wait_for(&name, ttl).await?;
    operator.backend().discard(&name).await?;
    let seen = operator.inspect(&name).await?;
    ensure!(
        seen.holder.as_ref().and_then(|holder| holder.token) == Some(grant.token)
            && seen.queue.len() == 1,
        "R4",
        "discarding a lock with a holder and a waiter has changed it: {seen:?}"
    );
    holder.remove(&name, grant.attempt, ttl).await?;
    let granted = operator
        .await_grant(&name, waiter, ttl, context.slack())
        .await?;
    let Some(granted) = granted else {
        broken!(
            "R4",
            "after a discard in vain, the waiter is not granted the lock"
        );
    };
    operator.remove(&name, waiter, ttl).await?;
    let kept = operator.backend().discard(&name).await?;
    if let (Some(Duration::ZERO), Some(entries)) = (kept, context.env().residue().await?) {
        ensure!(
            entries == 0,
            "R4",
            "the backend reports that nothing remains, and {entries} locks have state"
        );
    }
    let again = holder.hold(&name, ttl).await?;
    ensure!(
        again.token > granted.token,
        "T1",
        "after a discard token {} follows {}",
        again.token,
        granted.token
    );
    Ok(())
}

pub(crate) async fn shutdown_releases_all(context: Arc<CaseContext>) -> Outcome {
    let driver = context.driver().await?;
    let names = ["down-1", "down-2", "down-3"];
    let client = context.client().await?;
    let mut guards = Vec::new();
    for name in names {
        guards.push(client.lock(name)?.acquire().await?);
    }
    let report = client.shutdown(context.slack()).await;
    ensure!(
        report.released == names.len() && report.unreleased.is_empty(),
        "R5",
        "the shutdown of a client with {} locks returned {report:?}",
        names.len()
    );
    for guard in &guards {
        ensure!(
            guard.check().is_err(),
            "R5",
            "after the shutdown a guard is held"
        );
        context
            .until_idle(&driver, guard.name(), context.slack(), "R5")
            .await?;
    }
    match client.lock("down-1")?.try_acquire().await {
        Err(error) if error.kind() == ErrorKind::Closed => {}
        other => broken!("R5", "after the shutdown an acquire returned {other:?}"),
    }

    let plan = Plan::new();
    let client = context.client_through(&plan, |builder| builder).await?;
    let guard = client.lock("stuck")?.acquire().await?;
    plan.set(Op::Remove, Fate::Hang);
    let within = Duration::from_millis(400);
    let start = context.now();
    let closing = tokio::time::timeout(within + context.slack(), client.shutdown(within));
    let Ok(report) = closing.await else {
        broken!(
            "R5",
            "a shutdown within {within:?} is not over {:?} later",
            context.slack()
        );
    };
    let took = context.now().since(start);
    let Some(left) = report.unreleased.first() else {
        return Err(Failure::new(
            Some("R5"),
            format!("a lock that could not be released is not named: {report:?} after {took:?}"),
        )
        .into());
    };
    ensure!(
        &left.name == guard.name() && left.token == guard.token() && report.released == 0,
        "R5",
        "the lock that could not be released is named as {left:?}"
    );
    Ok(())
}
