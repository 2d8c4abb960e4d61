//! Fencing tokens: clauses T1 to T3.

use std::sync::Arc;

use tenure_core::{
    id::AttemptId,
    request::{Enqueued, Evicted, Renewed},
};

pub(crate) use super::handover::rises_over_a_thousand_hand_overs;
use crate::{
    context::{CaseContext, release},
    outcome::{Failure, Outcome, broken, ensure},
    wrap::{Op, Plan},
};

pub(crate) async fn rises_over_release(context: Arc<CaseContext>) -> Outcome {
    let drivers = [context.driver().await?, context.driver().await?];
    let name = context.name("release")?;
    let mut last = None;
    for driver in drivers.iter().cycle().take(50) {
        let grant = driver.hold(&name, context.long()).await?;
        ensure!(
            Some(grant.token) > last,
            "T1",
            "token {} was granted after {last:?}",
            grant.token
        );
        last = Some(grant.token);
        driver.remove(&name, grant.attempt, context.long()).await?;
    }
    Ok(())
}

pub(crate) async fn rises_over_expiry(context: Arc<CaseContext>) -> Outcome {
    let holder = context.driver().await?;
    let name = context.name("expiry")?;
    let ttl = context.short();
    let mut last = holder.hold(&name, ttl).await?;
    // If the locks of a client share a lease, its waiting attempts renew its grants. Both clients live to the
    // end: a dropped client may release its locks.
    let others = [context.driver().await?, context.driver().await?];
    for other in &others {
        let attempt = other.wait_for(&name, ttl).await?;
        let within = context.takeover(last.ttl, ttl);
        let Some(grant) = other.await_grant(&name, attempt, ttl, within).await? else {
            broken!("X3", "a lock was not granted again after its expiry");
        };
        ensure!(
            grant.token > last.token,
            "T1",
            "token {} was granted after {}, which had expired",
            grant.token,
            last.token
        );
        last = grant;
    }
    Ok(())
}

pub(crate) async fn rises_over_eviction(context: Arc<CaseContext>) -> Outcome {
    let (holder, other) = (context.driver().await?, context.driver().await?);
    let name = context.name("eviction")?;
    let ttl = context.long();
    let first = holder.hold(&name, ttl).await?;
    let waiter = other.wait_for(&name, ttl).await?;
    let evicted = other.backend().evict(&name, first.token).await?;
    ensure!(
        evicted == Evicted::Evicted,
        "I2",
        "the eviction of the holder's token returned {evicted:?}"
    );
    let Some(second) = other
        .await_grant(&name, waiter, ttl, context.slack())
        .await?
    else {
        broken!(
            "I2",
            "after an eviction the first waiter does not hold the lock"
        );
    };
    other.backend().evict(&name, second.token).await?;
    let third = holder.hold(&name, ttl).await?;
    ensure!(
        first.token < second.token && second.token < third.token,
        "T1",
        "over two evictions the tokens were {}, {}, {}",
        first.token,
        second.token,
        third.token
    );
    Ok(())
}

pub(crate) async fn rises_over_deletion(context: Arc<CaseContext>) -> Outcome {
    let (holder, other) = (context.driver().await?, context.driver().await?);
    let name = context.name("deletion")?;
    let mut last = None;
    for driver in [&holder, &other, &holder] {
        let grant = driver.hold(&name, context.long()).await?;
        ensure!(
            Some(grant.token) > last,
            "T1",
            "after the state was deleted by hand token {} was granted after {last:?}",
            grant.token
        );
        last = Some(grant.token);
        context.delete_state(&name).await?;
    }
    Ok(())
}

pub(crate) async fn comes_with_the_grant(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let ttl = context.steady();
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl))
        .await?;
    let guard = client.lock("one-request")?.acquire().await?;
    let asked = (plan.count(Op::Enqueue), plan.count(Op::Inspect));
    ensure!(
        asked == (1, 0),
        "T2",
        "acquiring a free lock should be one request; enqueues and inspections were {asked:?}"
    );
    let token = guard.token();
    for _ in 0..3 {
        if let Err(not_held) = guard.renew().await {
            broken!("T2", "the renewal of a held lock returned {not_held:?}");
        }
        ensure!(
            guard.token() == token,
            "T2",
            "a renewal changed the token from {token} to {}",
            guard.token()
        );
    }
    release(&guard).await?;

    let driver = context.driver().await?;
    let name = context.name("by-driver")?;
    let grant = driver.hold(&name, ttl).await?;
    match driver
        .renew(&name, grant.attempt, ttl, Some(grant.token))
        .await?
    {
        Renewed::Proved { .. } => {}
        Renewed::Granted(again) if again.token == grant.token => {}
        other => broken!(
            "T2",
            "the renewal of token {} returned {other:?}",
            grant.token
        ),
    }
    Ok(())
}

pub(crate) async fn same_attempt_same_grant(context: Arc<CaseContext>) -> Outcome {
    let (driver, other) = (context.driver().await?, context.driver().await?);
    let name = context.name("again")?;
    let ttl = context.steady();
    let attempt = AttemptId::random()?;
    let mut tokens = Vec::new();
    let mut asked = driver.now();
    // Four repetitions with an interval of half a TTL: twice the TTL in total.
    for round in 0..5 {
        let before = driver.now();
        match driver.enqueue(&name, attempt, ttl, true).await? {
            Enqueued::Granted(grant) => {
                let from = grant.proved_from.ok_or_else(|| {
                    Failure::new(Some("D1"), "a grant in answer to an enqueue proves nothing")
                })?;
                ensure!(
                    from >= before,
                    "T3",
                    "the repeated request should prove the grant; the proof counts from {from:?}"
                );
                tokens.push(grant.token);
            }
            // The machine may have stalled for half a second.
            other if before.since(asked) >= ttl * 9 / 10 => {
                return Err(Failure::new(
                    None,
                    format!("this machine is too slow for this case: {other:?}"),
                )
                .into());
            }
            other => broken!(
                "T3",
                "the repeated request of the holder returned {other:?}"
            ),
        }
        asked = before;
        if round < 4 {
            context.sleep_until(before + ttl / 2).await;
        }
        if driver.now().since(asked) < ttl * 9 / 10 {
            let tried = other.try_hold(&name, ttl).await?;
            ensure!(
                tried.is_none() || driver.now().since(asked) >= ttl,
                "T3",
                "{:?} after a repeated request, the grant should have its full TTL of {ttl:?}, but \
                 another client got {tried:?}",
                driver.now().since(asked)
            );
        }
    }
    tokens.dedup();
    ensure!(
        tokens.len() == 1,
        "T3",
        "one attempt got the tokens {tokens:?}"
    );
    Ok(())
}

pub(crate) async fn floor_lifts_tokens(context: Arc<CaseContext>) -> Outcome {
    // Above any wall-clock time in microseconds of the next centuries.
    const FLOOR: u64 = 1 << 60;
    let name = context.name("floor")?;
    let plain = context.driver().await?;
    let first = plain.hold(&name, context.long()).await?;
    let lifted = context.driver_in(context.namespace(), FLOOR).await?;
    let waiter = lifted.wait_for(&name, context.long()).await?;
    plain.remove(&name, first.attempt, context.long()).await?;
    let turn = lifted.await_grant(&name, waiter, context.long(), context.slack());
    let Some(second) = turn.await? else {
        broken!("R2", "the waiter does not hold the lock after the release");
    };
    lifted.remove(&name, second.attempt, context.long()).await?;
    let third = lifted.hold(&name, context.long()).await?;
    ensure!(
        third.token.get() > FLOOR && third.token > second.token,
        "T1",
        "with a floor of {FLOOR} the token {} was granted",
        third.token
    );
    Ok(())
}
