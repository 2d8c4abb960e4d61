//! Waiting: clauses W1 to W5.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    Acquisition,
    capability::WaitMode,
    id::AttemptId,
    request::{Removed, Renewed},
};
use tokio::sync::mpsc;

use crate::{
    context::{CaseContext, release},
    outcome::{Outcome, Stop, broken, ensure},
    wrap::{Fate, Op, Plan},
};

pub(crate) async fn grants_follow_the_queue(context: Arc<CaseContext>) -> Outcome {
    const WAITERS: usize = 8;
    let driver = context.driver().await?;
    let holder = context.client().await?;
    let guard = holder.lock("fifo")?.acquire().await?;
    let clients = [
        context.client().await?,
        context.client().await?,
        context.client().await?,
        context.client().await?,
    ];
    let (told, mut turns) = mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    for place in 0..WAITERS {
        let lock = clients[place % clients.len()].lock("fifo")?;
        let told = told.clone();
        tasks.spawn(async move {
            let guard = lock.acquire().await?;
            let _ = told.send((place, guard.token()));
            release(&guard).await?;
            Ok::<_, Stop>(())
        });
        context
            .until_waiting(&driver, guard.name(), place + 1)
            .await?;
    }
    drop(told);
    release(&guard).await?;
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let mut seen = Vec::new();
    while let Some(turn) = turns.recv().await {
        seen.push(turn);
    }
    // The order of the tokens is the order of the grants.
    seen.sort_by_key(|(_, token)| *token);
    let places: Vec<_> = seen.iter().map(|(place, _)| *place).collect();
    ensure!(
        places == (0..WAITERS).collect::<Vec<_>>(),
        "W1",
        "the grants should follow the order of the queue, but were {places:?}"
    );
    Ok(())
}

pub(crate) async fn dead_waiter_delays_by_its_ttl(context: Arc<CaseContext>) -> Outcome {
    let (holder, dead, next) = (
        context.driver().await?,
        context.driver().await?,
        context.driver().await?,
    );
    let name = context.name("dead-waiter")?;
    let grant = holder.hold(&name, context.long()).await?;
    let ttl = context.short();
    dead.wait_for(&name, ttl).await?;
    let died = dead.now();
    let attempt = next.wait_for(&name, context.long()).await?;
    holder.remove(&name, grant.attempt, context.long()).await?;
    let within = context.takeover(ttl, context.long());
    let turn = next.await_grant(&name, attempt, context.long(), within);
    let Some(_) = turn.await? else {
        broken!(
            "W1",
            "a dead waiter with a TTL of {ttl:?} stands in the way for {within:?}"
        );
    };
    let took = next.now().since(died);
    let bound = context.takeover(ttl, ttl);
    ensure!(
        took <= bound,
        "W1",
        "a dead waiter with a TTL of {ttl:?} delayed the queue by {took:?}"
    );
    Ok(())
}

pub(crate) async fn dead_waiter_delays_patient_ones_no_more(context: Arc<CaseContext>) -> Outcome {
    context.need_own_ttl()?;
    let (holder, dead) = (context.driver().await?, context.driver().await?);
    let client = context.client().await?;
    let name = context.name("patient")?;
    let grant = holder.hold(&name, context.long()).await?;
    let ttl = context.short();
    dead.wait_for(&name, ttl).await?;
    let died = dead.now();
    // A waiter renews after a third of this TTL, which is much longer than the bound.
    let patient = context.possible_ttl((context.takeover(ttl, ttl) + context.slack()) * 10);
    let lock = client.lock_named(name.clone()).ttl(patient);
    let (tell, mut told) = mpsc::unbounded_channel();
    let waiter = tokio::spawn(async move {
        let told = |_: &_| {
            let _ = tell.send(());
        };
        lock.acquire_observed(None, told).await
    });
    let _ = tokio::time::timeout(context.slack(), told.recv()).await;
    holder.remove(&name, grant.attempt, context.long()).await?;
    let within = context.takeover(ttl, ttl) + context.slack();
    let took = tokio::time::timeout(within, waiter).await;
    let after = context.now().since(died);
    let Ok(Ok(acquired)) = took else {
        broken!(
            "W1",
            "a dead waiter with a TTL of {ttl:?} still delays one of {patient:?} after {after:?}"
        );
    };
    match acquired? {
        Acquisition::Acquired(guard) => release(&guard).await,
        other => broken!("W1", "an acquire without a time limit returned {other:?}"),
    }
}

pub(crate) async fn leaving_disturbs_nobody(context: Arc<CaseContext>) -> Outcome {
    let drivers = [
        context.driver().await?,
        context.driver().await?,
        context.driver().await?,
    ];
    let name = context.name("leaving")?;
    let ttl = context.long();
    let grant = drivers[0].hold(&name, ttl).await?;
    let mut waiters = Vec::new();
    for driver in drivers.iter().cycle().take(6) {
        waiters.push((driver, driver.wait_for(&name, ttl).await?));
    }
    for index in [3, 1, 0] {
        let (driver, attempt) = waiters.remove(index);
        let removed = driver.remove(&name, attempt, ttl).await?;
        ensure!(
            removed == Removed::AsWaiter,
            "R1",
            "a waiter that leaves was {removed:?}"
        );
        let queue = drivers[0].inspect(&name).await?.queue;
        let seen: Vec<_> = queue.iter().filter_map(|waiter| waiter.attempt).collect();
        let expected: Vec<_> = waiters.iter().map(|(_, attempt)| *attempt).collect();
        ensure!(
            seen == expected,
            "W3",
            "after a waiter left, the queue should be {expected:?}, it is {seen:?}"
        );
    }
    drivers[0].remove(&name, grant.attempt, ttl).await?;
    let mut last = grant.token;
    for (driver, attempt) in waiters {
        let turn = driver.await_grant(&name, attempt, ttl, context.slack());
        let Some(grant) = turn.await? else {
            broken!("W3", "after others have left, a waiter is not granted");
        };
        ensure!(
            grant.token > last,
            "W1",
            "the grants did not follow the order of the queue"
        );
        last = grant.token;
        driver.remove(&name, attempt, ttl).await?;
    }
    Ok(())
}

pub(crate) async fn release_wakes_the_next_alone(context: Arc<CaseContext>) -> Outcome {
    let drivers = [
        context.driver().await?,
        context.driver().await?,
        context.driver().await?,
        context.driver().await?,
    ];
    let [holder, first, second, third] = &drivers;
    let name = context.name("alone")?;
    let ttl = context.long();
    let grant = holder.hold(&name, ttl).await?;
    let next = first.wait_for(&name, ttl).await?;
    let others = [
        (second, second.wait_for(&name, ttl).await?),
        (third, third.wait_for(&name, ttl).await?),
    ];
    holder.remove(&name, grant.attempt, ttl).await?;
    let turn = first.await_grant(&name, next, ttl, context.slack());
    ensure!(
        turn.await?.is_some(),
        "W1",
        "the first waiter does not hold the lock"
    );
    // Long enough for a message to a wrong waiter.
    tokio::time::sleep(Duration::from_millis(200)).await;
    for (driver, attempt) in others {
        ensure!(
            driver.pushed(attempt).is_none(),
            "W3",
            "a waiter behind the first one got a message of a grant"
        );
        match driver.renew(&name, attempt, ttl, None).await? {
            Renewed::Waiting(_) => {}
            answer => broken!(
                "W3",
                "the renewal of a waiter behind the first one returned {answer:?}"
            ),
        }
    }
    Ok(())
}

pub(crate) async fn message_wakes_the_waiter(context: Arc<CaseContext>) -> Outcome {
    context.need_push()?;
    let (holder, waiter) = (context.driver().await?, context.driver().await?);
    let name = context.name("message")?;
    let ttl = context.long();
    for _ in 0..10 {
        let grant = holder.hold(&name, ttl).await?;
        let attempt = waiter.wait_for(&name, ttl).await?;
        holder.remove(&name, grant.attempt, ttl).await?;
        let Some(pushed) = waiter.await_push(attempt, context.slack()).await else {
            broken!("W2", "the waiter got no message of its grant");
        };
        ensure!(
            pushed.token > grant.token,
            "T1",
            "the pushed token did not rise"
        );
        match waiter
            .renew(&name, attempt, ttl, Some(pushed.token))
            .await?
        {
            Renewed::Proved { .. } => {}
            Renewed::Granted(again) if again.token == pushed.token => {}
            answer => broken!("T2", "the renewal of the pushed grant returned {answer:?}"),
        }
        waiter.remove(&name, attempt, ttl).await?;
    }
    Ok(())
}

pub(crate) async fn leaving_loses_nobodys_message(context: Arc<CaseContext>) -> Outcome {
    context.need_push()?;
    let (holder, leaves, stays) = (
        context.driver().await?,
        context.driver().await?,
        context.driver().await?,
    );
    let ttl = context.long();
    // The first waiter leaves just before its grant, and just after it.
    for late in [false, true] {
        let name = context.name(if late { "leaves-late" } else { "leaves-early" })?;
        let grant = holder.hold(&name, ttl).await?;
        let first = leaves.wait_for(&name, ttl).await?;
        let second = stays.wait_for(&name, ttl).await?;
        if late {
            holder.remove(&name, grant.attempt, ttl).await?;
            leaves.remove(&name, first, ttl).await?;
        } else {
            leaves.remove(&name, first, ttl).await?;
            holder.remove(&name, grant.attempt, ttl).await?;
        }
        let told = stays
            .await_notice(&name, second, ttl, context.slack())
            .await?;
        ensure!(
            told.is_some(),
            "W3",
            "the first waiter left, and the next waiter got no message of its grant"
        );
        stays.remove(&name, second, ttl).await?;
    }
    Ok(())
}

pub(crate) async fn lost_message_is_made_up_for(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let ttl = context.steady();
    let holder = context.driver().await?;
    let name = context.name("lost-message")?;
    let grant = holder.hold(&name, context.long()).await?;
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl))
        .await?;
    plan.mute(true);
    let lock = client.lock("lost-message")?;
    let waiting = tokio::spawn(async move { lock.acquire().await });
    context.until_waiting(&holder, &name, 1).await?;
    holder.remove(&name, grant.attempt, context.long()).await?;
    let released = context.now();
    let bound = context.takeover(ttl, ttl);
    let Ok(acquired) = tokio::time::timeout(bound, waiting).await else {
        broken!(
            "W2",
            "a waiter whose message was lost still sleeps after {bound:?}"
        );
    };
    let guard = acquired??;
    let took = context.now().since(released);
    let report = match context.capabilities().wait {
        WaitMode::Poll { every } => every.min(ttl / 3),
        _ => ttl / 3,
    };
    ensure!(
        took <= report + context.slack(),
        "W2",
        "a waiter whose message was lost reports every {report:?}, and took {took:?}"
    );
    release(&guard).await?;
    Ok(())
}

pub(crate) async fn lapsed_waiter_is_never_granted(context: Arc<CaseContext>) -> Outcome {
    let (holder, driver) = (context.driver().await?, context.driver().await?);
    let name = context.name("lapsed")?;
    let ttl = context.short();
    let grant = holder.hold(&name, context.long()).await?;
    let plan = Plan::new();
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl))
        .await?;
    // The first waiter belongs to the holder's client: a driver may hand over locally.
    let next = holder.wait_for(&name, ttl).await?;
    let silent = driver.wait_for(&name, ttl).await?;
    let lock = client.lock("lapsed")?;
    let waiting = tokio::spawn(async move { lock.acquire().await });
    context.until_waiting(&driver, &name, 3).await?;
    plan.set(Op::Renew, Fate::Hang);
    // All three entries expire while a live client holds the lock. The acquire may notice this and continue
    // with a new attempt at once.
    let first = plan.calls(Op::Enqueue);
    let first = first
        .first()
        .and_then(|call| call.attempts.first().copied());
    let bound = context.takeover(ttl, ttl);
    let lapsed = context
        .eventually(bound, || async {
            let queue = driver.inspect(&name).await?.queue;
            let left = queue.iter().filter_map(|waiter| waiter.attempt);
            let lapses = |left: &AttemptId| [next, silent].contains(left) || Some(*left) == first;
            let mut left = left.filter(lapses);
            Ok(left.next().is_none().then_some(()))
        })
        .await?;
    if lapsed.is_none() {
        let queue = driver.inspect(&name).await?.queue;
        broken!(
            "W1",
            "waiters without renewals, {next:?}, {silent:?} and {first:?}, are still in the queue after \
             {bound:?}: {queue:?}"
        );
    }
    // A store that announces the loss has let the acquire continue already; what it is granted now must be
    // renewed.
    plan.set(Op::Renew, Fate::Pass);
    holder.remove(&name, grant.attempt, context.long()).await?;
    ensure!(
        driver
            .await_push(silent, Duration::from_millis(300))
            .await
            .is_none()
            && holder.pushed(next).is_none(),
        "W4",
        "a waiter whose entry had expired got a message of a grant"
    );
    match driver.renew(&name, silent, ttl, None).await? {
        Renewed::Gone(_) => {}
        answer => broken!(
            "W4",
            "the renewal of a waiter whose entry had expired returned {answer:?}"
        ),
    }
    let Ok(acquired) = tokio::time::timeout(bound + context.slack(), waiting).await else {
        broken!("W5", "an acquire whose entry had lapsed does not go on");
    };
    let guard = acquired??;
    let enqueues = plan.calls(Op::Enqueue);
    let attempts: Vec<_> = enqueues.iter().flat_map(|call| &call.attempts).collect();
    ensure!(
        attempts.len() >= 2 && attempts.first() != Some(&&guard.attempt()),
        "W4",
        "the attempt that had lapsed was granted the lock"
    );
    release(&guard).await?;
    Ok(())
}

pub(crate) async fn report_never_creates(context: Arc<CaseContext>) -> Outcome {
    let (driver, holder) = (context.driver().await?, context.driver().await?);
    let ttl = context.long();
    for taken in [false, true] {
        let name = context.name(if taken { "taken" } else { "free" })?;
        if taken {
            holder.hold(&name, ttl).await?;
        }
        for _ in 0..3 {
            match driver.renew(&name, AttemptId::random()?, ttl, None).await? {
                Renewed::Gone(_) => {}
                answer => broken!("W5", "the renewal of an unknown entry returned {answer:?}"),
            }
        }
        let state = driver.inspect(&name).await?;
        ensure!(
            state.queue.is_empty() && state.holder.is_some() == taken,
            "W5",
            "the report of an unknown entry made one: {state:?}"
        );
    }
    Ok(())
}

pub(crate) async fn forgotten_waiter_goes_on(context: Arc<CaseContext>) -> Outcome {
    let ttl = context.steady();
    let holder = context.driver().await?;
    let name = context.name("forgotten")?;
    let grant = holder.hold(&name, context.long()).await?;
    let client = context.client_with(|builder| builder.ttl(ttl)).await?;
    let lock = client.lock("forgotten")?;
    let within = ttl * 2 + context.slack() * 2;
    let waiting = tokio::spawn(async move { lock.acquire_within(within).await });
    context.until_waiting(&holder, &name, 1).await?;
    let queue = holder.inspect(&name).await?.queue;
    let Some(attempt) = queue.first().and_then(|waiter| waiter.attempt) else {
        broken!("I1", "the waiter is shown without its attempt: {queue:?}");
    };
    holder.remove(&name, attempt, ttl).await?;
    let anew = context
        .eventually(ttl + context.slack(), || async {
            let queue = holder.inspect(&name).await?.queue;
            let next = queue.first().and_then(|waiter| waiter.attempt);
            Ok(next.filter(|next| *next != attempt))
        })
        .await?;
    ensure!(
        anew.is_some(),
        "W5",
        "an acquire whose entry vanished does not go on with a new attempt"
    );
    holder.remove(&name, grant.attempt, context.long()).await?;
    match waiting.await?? {
        Acquisition::Acquired(guard) => {
            release(&guard).await?;
            Ok(())
        }
        other => broken!("W5", "an acquire whose entry vanished ended as {other:?}"),
    }
}
