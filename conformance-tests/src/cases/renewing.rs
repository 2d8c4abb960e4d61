//! Renewing: clauses K1 to K4.

use std::{sync::Arc, time::Duration};

use tenure_core::{clock::Instant, request::Renewed};

use crate::{
    context::{CaseContext, release},
    outcome::{Outcome, broken, ensure},
    wrap::{Fate, Op, Plan},
};

pub(crate) async fn keeps_the_lock_beyond_its_ttl(context: Arc<CaseContext>) -> Outcome {
    let ttl = context.steady();
    let client = context.client_with(|builder| builder.ttl(ttl)).await?;
    let other = context.driver().await?;
    let guard = client.lock("kept")?.acquire().await?;
    let token = guard.token();
    let until = context.now() + ttl * 3;
    while context.now() < until {
        ensure!(
            guard.check() == Ok(token),
            "K1",
            "the guard is {:?} although nothing hindered its renewal",
            guard.phase()
        );
        let tried = other.try_hold(guard.name(), ttl).await?;
        ensure!(
            tried.is_none() || guard.check().is_err(),
            "X1",
            "a held lock was granted to another client"
        );
        tokio::time::sleep(ttl / 10).await;
    }
    release(&guard).await?;
    Ok(())
}

pub(crate) async fn comes_every_third_of_the_ttl(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let ttl = context.steady();
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl))
        .await?;
    let guard = client.lock("thirds")?.acquire().await?;
    let start = context.now();
    context.sleep_until(start + ttl * 2).await;
    let calls = plan.calls(Op::Renew);
    let mut times = vec![start];
    times.extend(calls.iter().map(|call| call.at));
    times.push(context.now());
    let gaps: Vec<Duration> = times
        .windows(2)
        .map(|pair| pair[1].since(pair[0]))
        .collect();
    let longest = gaps.iter().max().copied().unwrap_or_default();
    // A short stall of the machine delays one of them.
    ensure!(
        longest <= ttl / 3 + ttl / 6,
        "K1",
        "between renewals of a TTL of {ttl:?} there were {gaps:?}"
    );
    ensure!(
        calls.len() <= 24,
        "K1",
        "in two TTLs {} renewals were sent where six are needed",
        calls.len()
    );
    release(&guard).await?;
    Ok(())
}

pub(crate) async fn many_locks_share_it(context: Arc<CaseContext>) -> Outcome {
    const LOCKS: usize = 100;
    let plan = Plan::new();
    let ttl = context.possible_ttl(Duration::from_secs(6));
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl))
        .await?;
    let mut guards = Vec::new();
    for number in 0..LOCKS {
        guards.push(client.lock(format!("shared-{number}"))?.acquire().await?);
    }
    let before = plan.count(Op::Renew);
    let start = context.now();
    context.sleep_until(start + ttl).await;
    let calls = plan.calls(Op::Renew).split_off(before);
    let entries: usize = calls.iter().map(|call| call.attempts.len()).sum();
    for guard in &guards {
        ensure!(
            guard.check().is_ok(),
            "K1",
            "of {LOCKS} locks {:?} is {:?}",
            guard.name(),
            guard.phase()
        );
    }
    ensure!(
        entries >= LOCKS * 2,
        "K1",
        "in one TTL {entries} renewals were sent for {LOCKS} locks, where each needs three"
    );
    ensure!(
        calls.len() * 4 <= entries,
        "K1",
        "{entries} renewals of {LOCKS} locks took {} requests",
        calls.len()
    );
    let report = client.shutdown(Duration::from_secs(20)).await;
    ensure!(
        report.unreleased.is_empty(),
        "R5",
        "the shutdown left {} of {LOCKS} locks",
        report.unreleased.len()
    );
    Ok(())
}

pub(crate) async fn never_revives_the_expired(context: Arc<CaseContext>) -> Outcome {
    let (holder, other) = (context.driver().await?, context.driver().await?);
    let name = context.name("revived")?;
    let ttl = context.short();
    let grant = holder.hold(&name, ttl).await?;
    let bound = context.takeover(grant.ttl, ttl);
    // There is no waiter, and inspections change nothing, so that only the renewal can detect the expiry.
    let free = context
        .eventually(bound, || async {
            let state = other.inspect(&name).await?;
            Ok(state.holder.is_none().then_some(()))
        })
        .await?;
    ensure!(
        free.is_some(),
        "I1",
        "a grant that expired {bound:?} ago is still shown as the holder"
    );
    match holder
        .renew(&name, grant.attempt, ttl, Some(grant.token))
        .await?
    {
        Renewed::Gone(_) => {}
        answer => broken!("K2", "the renewal of an expired grant returned {answer:?}"),
    }
    let Some(next) = other.try_hold(&name, ttl).await? else {
        broken!("K2", "the renewal of an expired grant has revived it");
    };
    ensure!(
        next.token > grant.token,
        "T1",
        "the token did not rise over an expiry"
    );
    Ok(())
}

pub(crate) async fn never_extends_anothers(context: Arc<CaseContext>) -> Outcome {
    let (stale, holder, third) = (
        context.driver().await?,
        context.driver().await?,
        context.driver().await?,
    );
    let name = context.name("anothers")?;
    let ttl = context.short();
    let first = stale.hold(&name, ttl).await?;
    let second = holder.wait_for(&name, ttl).await?;
    let bound = context.takeover(first.ttl, ttl);
    let turn = holder.await_grant(&name, second, ttl, bound);
    let Some(grant) = turn.await? else {
        broken!("X3", "the expired lock was not granted again");
    };
    let granted = holder.now();
    let waiter = third.wait_for(&name, context.long()).await?;
    // The new holder stops renewing. The old holder renews, as a process does after a pause.
    let until = granted + context.takeover(grant.ttl, context.short());
    let succeeded: Option<Instant> = loop {
        match stale
            .renew(&name, first.attempt, ttl, Some(first.token))
            .await?
        {
            Renewed::Gone(_) => {}
            answer => broken!(
                "K2",
                "the renewal of a grant with a successor returned {answer:?}"
            ),
        }
        if let Renewed::Granted(_) = third.renew(&name, waiter, context.long(), None).await? {
            break Some(third.now());
        }
        if third.now() > until {
            break None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    ensure!(
        succeeded.is_some(),
        "K2",
        "the renewals of a previous holder extended the grant of the current holder"
    );
    Ok(())
}

pub(crate) async fn has_stopped_before_the_release(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let ttl = context.short();
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl))
        .await?;
    // With a slow store, renewals and removals can overlap.
    let slow = Fate::Delay {
        before: ttl / 20,
        after: ttl / 20,
    };
    plan.set(Op::Renew, slow);
    plan.set(Op::Remove, slow);
    let name = context.name("stopped")?;
    let mut renewed = false;
    for round in 0..20_u32 {
        let guard = client.lock_named(name.clone()).acquire().await?;
        // Each release is at another point of the renewal.
        context
            .sleep_until(context.now() + ttl / 3 * (round % 5) / 4)
            .await;
        if round % 5 == 4 {
            let _ = tokio::time::timeout(ttl / 30, guard.renew()).await;
        }
        if round < 10 {
            release(&guard).await?;
        } else {
            drop(guard);
        }
    }
    tokio::time::sleep(ttl).await;
    let renewals = plan.calls(Op::Renew);
    for removal in plan.calls(Op::Remove) {
        for call in renewals
            .iter()
            .filter(|call| call.attempts.iter().any(|id| removal.attempts.contains(id)))
        {
            renewed = true;
            ensure!(
                call.at <= removal.at,
                "K3",
                "a renewal was sent {:?} after the removal of its attempt",
                call.at.since(removal.at)
            );
            ensure!(
                call.done.is_some_and(|done| done <= removal.at),
                "K3",
                "a renewal was under way when the removal of its attempt was sent"
            );
        }
    }
    ensure!(
        renewed,
        "K1",
        "nothing was renewed, so that this case shows nothing"
    );
    Ok(())
}

pub(crate) async fn nothing_comes_back_after_the_release(context: Arc<CaseContext>) -> Outcome {
    let ttl = context.short();
    let client = context.client_with(|builder| builder.ttl(ttl)).await?;
    let driver = context.driver().await?;
    for _ in 0..3 {
        let guard = client.lock("stays-free")?.acquire().await?;
        // Long enough for a renewal.
        tokio::time::sleep(ttl / 2).await;
        release(&guard).await?;
        let until = context.now() + ttl;
        while context.now() < until {
            let state = driver.inspect(guard.name()).await?;
            ensure!(
                state.holder.is_none() && state.queue.is_empty(),
                "K3",
                "a released lock has come back, as by a renewal after its release: {state:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}
