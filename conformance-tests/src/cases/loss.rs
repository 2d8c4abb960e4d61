//! Loss: clauses L1 to L5.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    Guard, Release, capability::Evidence, lease::Phase, loss::LossReason, request::Evicted,
};

use crate::{
    context::{CaseContext, release},
    outcome::{Outcome, Stop, broken, ensure},
    wrap::{Fate, Op, Plan},
};

pub(crate) async fn comes_by_the_deadline_while_renewal_hangs(
    context: Arc<CaseContext>,
) -> Outcome {
    let plan = Plan::new();
    let ttl = context.short();
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl))
        .await?;
    plan.set(Op::Renew, Fate::Hang);
    let guard = client.lock("hangs")?.acquire().await?;
    let deadline = guard.valid_until();
    let told = tokio::time::timeout(ttl + context.slack(), guard.lost()).await;
    let now = context.now();
    let Ok(reason) = told else {
        broken!(
            "L1",
            "`lost` did not fire, {:?} after the deadline",
            now.since(deadline)
        );
    };
    ensure!(
        now >= deadline,
        "L5",
        "the guard was lost {:?} before its deadline, for nothing but renewals that hang",
        deadline.since(now)
    );
    let late = now.since(deadline);
    ensure!(
        late < Duration::from_secs(1),
        "L1",
        "`lost` fired {late:?} after the deadline"
    );
    ensure!(
        reason == LossReason::Expired,
        "L3",
        "the reason should be expired, it is: {reason}"
    );
    ensure!(
        plan.count(Op::Renew) > 0,
        "K1",
        "no renewal was tried, so that this case shows nothing"
    );
    Ok(())
}

/// Returns the time limit for evidence of this kind.
fn bound(context: &CaseContext, evidence: Evidence, ttl: Duration) -> Duration {
    match evidence {
        Evidence::Push => context.slack(),
        _ => ttl / 3 + context.slack(),
    }
}

async fn lost(
    context: &CaseContext,
    guard: &Guard,
    evidence: Evidence,
) -> Result<LossReason, Stop> {
    let within = bound(context, evidence, guard.ttl());
    let deadline = guard.valid_until();
    let Ok(reason) = tokio::time::timeout(within, guard.lost()).await else {
        broken!(
            "L2",
            "evidence is declared as {evidence:?}, and did not come within {within:?}"
        );
    };
    ensure!(
        context.now() < deadline,
        "L2",
        "the guard was lost by its deadline alone, not by evidence"
    );
    ensure!(
        guard.check().is_err(),
        "L1",
        "`lost` has fired and `check` passes"
    );
    Ok(reason)
}

pub(crate) async fn eviction_is_noticed_as_declared(context: Arc<CaseContext>) -> Outcome {
    let evidence = context.capabilities().loss.evicted;
    // With evidence by push, no renewal comes within the bound.
    let client = context.client().await?;
    let guard = client.lock("evicted")?.acquire().await?;
    let other = context.client().await?;
    let evicted = other.evict(guard.name(), guard.token()).await?;
    ensure!(
        evicted == Evicted::Evicted,
        "I2",
        "the eviction of the holder returned {evicted:?}"
    );
    let reason = lost(&context, &guard, evidence).await?;
    ensure!(
        reason == LossReason::Evicted,
        "L3",
        "the reason should be evicted, it is: {reason}"
    );
    Ok(())
}

pub(crate) async fn deletion_is_noticed_as_declared(context: Arc<CaseContext>) -> Outcome {
    let evidence = context.capabilities().loss.deleted;
    // Evidence arrives with the next renewal: a long TTL would delay it.
    let ttl = match evidence {
        Evidence::Push => context.long(),
        _ => context.steady(),
    };
    let client = context.client_with(|builder| builder.ttl(ttl)).await?;
    let guard = client.lock("deleted")?.acquire().await?;
    context.delete_state(guard.name()).await?;
    let reason = lost(&context, &guard, evidence).await?;
    ensure!(
        matches!(reason, LossReason::Evicted | LossReason::SessionLost),
        "L3",
        "the reason should be evicted, it is: {reason}"
    );
    Ok(())
}

pub(crate) async fn own_release_is_no_loss(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let client = context.client_through(&plan, |builder| builder).await?;
    let other = context.driver().await?;
    let guard = client.lock("echo")?.acquire().await?;
    let waiter = other.wait_for(guard.name(), context.long()).await?;
    // The evidence about this attempt arrives during the release.
    let late = Fate::Delay {
        before: Duration::ZERO,
        after: Duration::from_millis(300),
    };
    plan.set(Op::Remove, late);
    let outcome = guard.release().await;
    ensure!(
        matches!(outcome, Release::Released),
        "L2",
        "the release of a held lock returned {outcome:?}"
    );
    ensure!(
        guard.phase() == Phase::Released,
        "L2",
        "after its own release the guard is {:?}",
        guard.phase()
    );
    let fired = tokio::time::timeout(Duration::from_millis(300), guard.lost()).await;
    ensure!(
        fired.is_err(),
        "L2",
        "after its own release the guard was lost: {fired:?}"
    );
    let turn = other.await_grant(guard.name(), waiter, context.long(), context.slack());
    ensure!(
        turn.await?.is_some(),
        "R2",
        "the waiter does not hold the lock after the release"
    );
    Ok(())
}

pub(crate) async fn is_final(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let ttl = context.short();
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl))
        .await?;
    let guard = client.lock("final")?.acquire().await?;
    plan.set(Op::Renew, Fate::Hang);
    let Ok(reason) = tokio::time::timeout(ttl + context.slack(), guard.lost()).await else {
        broken!("L1", "`lost` did not fire");
    };
    plan.set(Op::Renew, Fate::Pass);
    // The fault is over; nothing may restore the grant.
    let late = tokio::time::timeout(context.slack(), guard.renew()).await;
    ensure!(
        matches!(late, Ok(Err(_))),
        "L4",
        "the renewal of a lost guard returned {late:?}"
    );
    ensure!(
        guard.check().is_err(),
        "L4",
        "a lost guard became held again"
    );
    ensure!(
        guard.phase() == Phase::Lost(reason) && guard.lost().await == reason,
        "L4",
        "a guard that was lost ({reason}) became {:?}",
        guard.phase()
    );
    let attempt = guard.attempt();
    let removed = context
        .eventually(context.slack(), || async {
            let mut calls = plan.calls(Op::Remove).into_iter();
            Ok(calls
                .any(|call| call.attempts.contains(&attempt))
                .then_some(()))
        })
        .await?;
    ensure!(
        removed.is_some(),
        "L4",
        "the lost attempt was not removed from the store"
    );
    let outcome = guard.release().await;
    ensure!(
        matches!(outcome, Release::NotHeld(seen) if seen == reason),
        "L4",
        "the release of a lost guard returned {outcome:?}"
    );
    Ok(())
}

pub(crate) async fn two_lost_renewals_are_none(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let ttl = context.steady();
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl))
        .await?;
    let guard = client.lock("two")?.acquire().await?;
    for fate in [Fate::LoseRequest, Fate::LoseReply] {
        plan.set_times(Op::Renew, fate, 2);
        let before = guard.valid_until();
        let proved = context
            .eventually(ttl * 2, || async {
                let lost = plan.left(Op::Renew) == Some(0);
                Ok((lost && guard.valid_until() > before || guard.check().is_err()).then_some(()))
            })
            .await?;
        ensure!(
            guard.check().is_ok(),
            "L5",
            "two renewals in a row failed ({fate:?}), and the guard is {:?}",
            guard.phase()
        );
        ensure!(
            proved.is_some(),
            "K4",
            "a failed renewal is not tried again before the deadline"
        );
    }
    release(&guard).await?;
    Ok(())
}
