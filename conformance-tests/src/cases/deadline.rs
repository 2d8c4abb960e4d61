//! The deadline: clauses D1 to D4.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tenure_core::{
    backend::BackendEvent,
    clock::{Clock, Instant, SystemClock},
    lease::{DriftBounds, Phase},
    request::{Grant, Renewed, StoreTime},
    token::FencingToken,
};

use crate::{
    context::{CaseContext, release},
    outcome::{Failure, Outcome, Stop, broken, ensure},
    wrap::{Fate, Op, Plan},
};

pub(crate) async fn counts_from_before_the_request(context: Arc<CaseContext>) -> Outcome {
    const REPLY_DELAY: Duration = Duration::from_millis(400);
    let plan = Plan::new();
    let ttl = context.long();
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl))
        .await?;
    let fate = Fate::Delay {
        before: Duration::ZERO,
        after: REPLY_DELAY,
    };
    plan.set_times(Op::Enqueue, fate, 1);
    let guard = client.lock("late-answer")?.acquire().await?;
    let calls = plan.calls(Op::Enqueue);
    let Some((at, done)) = calls.first().and_then(|call| Some((call.at, call.done?))) else {
        return Err(Failure::new(None, "the enqueue was not seen").into());
    };
    let validity = DriftBounds::DEFAULT.validity(guard.ttl());
    let (earliest, latest) = (at + validity, done + validity);
    let deadline = guard.valid_until();
    ensure!(
        deadline <= latest,
        "D1",
        "the deadline lies {:?} behind what a proof from before the request allows",
        deadline.since(latest)
    );
    ensure!(
        deadline >= earliest,
        "D1",
        "the deadline lies {:?} before what the grant allows",
        earliest.since(deadline)
    );
    // Time in the queue of the client counts as well.
    plan.set_times(Op::Renew, fate, 1);
    if let Err(not_held) = guard.renew().await {
        broken!("K4", "the renewal of a held lock returned {not_held:?}");
    }
    let calls = plan.calls(Op::Renew);
    let Some(done) = calls.last().and_then(|call| call.done) else {
        return Err(Failure::new(None, "the renewal was not seen").into());
    };
    ensure!(
        guard.valid_until() <= done + validity,
        "D1",
        "after a renewal the deadline counts from its answer"
    );
    release(&guard).await?;
    Ok(())
}

pub(crate) async fn only_proof_moves_it(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let ttl = context.long();
    let client = context
        .client_through(&plan, |builder| {
            builder.ttl(ttl).request_timeout(Duration::from_millis(300))
        })
        .await?;
    let guard = client.lock("moves")?.acquire().await?;
    let first = guard.valid_until();
    if let Err(not_held) = guard.renew().await {
        broken!("K4", "the renewal of a held lock returned {not_held:?}");
    }
    let second = guard.valid_until();
    ensure!(
        second > first,
        "D2",
        "a renewal did not move the deadline on"
    );

    for fate in [
        Fate::LoseRequest,
        Fate::LoseReply,
        Fate::Hang,
        Fate::HangReply,
    ] {
        let before = guard.valid_until();
        let asked = plan.count(Op::Renew);
        plan.set(Op::Renew, fate);
        // Without a proof the guard stays lost.
        let renewal = tokio::time::timeout(Duration::from_millis(700), guard.renew()).await;
        ensure!(
            !matches!(renewal, Ok(Ok(()))),
            "D2",
            "a renewal without an answer ({fate:?}) counts as proved"
        );
        ensure!(plan.count(Op::Renew) > asked, "K4", "no renewal was sent");
        ensure!(
            guard.valid_until() == before,
            "D2",
            "a renewal without an answer ({fate:?}) moved the deadline"
        );
        ensure!(
            guard.check().is_ok(),
            "L5",
            "a renewal without an answer ended the grant"
        );
    }
    plan.set(Op::Renew, Fate::Pass);
    let proved = tokio::time::timeout(context.slack(), guard.renew()).await;
    ensure!(
        matches!(proved, Ok(Ok(()))) && guard.valid_until() > second,
        "D2",
        "once the store answers again a renewal should move the deadline: {proved:?}"
    );
    release(&guard).await?;
    Ok(())
}

/// The system's clock with an offset that a case can change.
#[derive(Debug, Default)]
struct JumpingClock(AtomicU64);

impl JumpingClock {
    fn jump(&self, span: Duration) {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for JumpingClock {
    fn now(&self) -> Instant {
        SystemClock.now() + Duration::from_millis(self.0.load(Ordering::SeqCst))
    }

    async fn sleep_until(&self, deadline: Instant) {
        loop {
            let left = deadline.since(self.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(Duration::from_millis(100))).await;
        }
    }
}

pub(crate) async fn clock_that_jumps_ends_the_lease(context: Arc<CaseContext>) -> Outcome {
    let clock = Arc::new(JumpingClock::default());
    let ttl = context.long();
    let injected: Arc<dyn Clock> = Arc::<JumpingClock>::clone(&clock);
    let client = context
        .client_with(|builder| builder.ttl(ttl).clock(injected))
        .await?;
    let guard = Arc::new(client.lock("suspended")?.acquire().await?);
    let watcher = Arc::clone(&guard);
    let lost = tokio::spawn(async move { watcher.lost().await });
    ensure!(
        guard.check().is_ok(),
        "D3",
        "the guard is not held to begin with"
    );
    clock.jump(ttl);
    ensure!(
        guard.check().is_err(),
        "D3",
        "the clock has jumped past the deadline, but `check` still succeeds"
    );
    let told = tokio::time::timeout(context.slack() + Duration::from_secs(1), lost).await;
    ensure!(
        matches!(told, Ok(Ok(_))),
        "D3",
        "the clock has jumped past the deadline, and `lost` does not fire"
    );
    Ok(())
}

pub(crate) async fn pushed_grant_counts_from_last_report(context: Arc<CaseContext>) -> Outcome {
    context.need_push()?;
    let plan = Plan::new();
    // A sixth of the TTL passes before the grant, and a third is less than the slack.
    let ttl = context.possible_ttl(Duration::from_secs(6));
    let holder = context.driver().await?;
    let name = context.name("pushed")?;
    let grant = holder.hold(&name, ttl).await?;
    let client = context
        .client_through(&plan, |builder| {
            builder.ttl(ttl).request_timeout(Duration::from_millis(500))
        })
        .await?;
    let lock = client.lock("pushed")?;
    let waiting = tokio::spawn(async move { lock.acquire().await });
    context.until_waiting(&holder, &name, 1).await?;
    // The store may show the entry before the client has the reply.
    let answered = || async {
        let mut calls = plan.calls(Op::Enqueue);
        calls.extend(plan.calls(Op::Renew));
        Ok::<_, Stop>(calls.iter().filter_map(|call| call.done).max())
    };
    let seen = context.eventually(context.slack(), answered).await?;
    ensure!(
        seen.is_some(),
        "A1",
        "the enqueue of a waiter was not answered"
    );
    // From here on the waiter can learn of its grant by message only.
    plan.set(Op::Renew, Fate::Hang);
    let Some(answered) = answered().await?.max(seen) else {
        return Err(Failure::new(None, "the enqueue was not seen").into());
    };
    tokio::time::sleep(Duration::from_millis(400)).await;
    let asked = plan.count(Op::Renew);
    holder.remove(&name, grant.attempt, ttl).await?;
    let guard = match tokio::time::timeout(context.slack(), waiting).await {
        Ok(acquired) => acquired??,
        Err(_) => broken!("W2", "the message of the grant did not come"),
    };
    let pushed = plan.events().into_iter().find_map(|event| match event {
        BackendEvent::Granted(grant) => Some(grant),
        _ => None,
    });
    // A driver may have sent a request before it reports a grant. Then the grant counts from that request.
    let proved = pushed.and_then(|grant| grant.proved_from);
    let latest = proved.unwrap_or(answered) + DriftBounds::DEFAULT.validity(guard.ttl());
    ensure!(
        guard.valid_until() <= latest,
        "D4",
        "the deadline of a grant by message lies {:?} behind what the last answered report allows",
        guard.valid_until().since(latest)
    );
    // A grant without a proof is renewed at once; a grant with a proof within a third of its TTL.
    let unproved = proved.is_none();
    let within = if unproved { ttl / 6 } else { context.slack() };
    let renewed = context
        .eventually(within, || async {
            Ok((plan.count(Op::Renew) > asked).then_some(()))
        })
        .await?;
    ensure!(
        renewed.is_some(),
        "D4",
        "a grant by message is not renewed within {within:?}"
    );
    plan.set(Op::Renew, Fate::Pass);
    release(&guard).await?;
    Ok(())
}

pub(crate) async fn pushed_grant_expires_with_the_entry(context: Arc<CaseContext>) -> Outcome {
    let (holder, dead, next) = (
        context.driver().await?,
        context.driver().await?,
        context.driver().await?,
    );
    let name = context.name("inherited")?;
    let ttl = context.steady();
    let grant = holder.hold(&name, context.long()).await?;
    let before = dead.now();
    dead.wait_for(&name, ttl).await?;
    let enqueued = dead.now();
    let attempt = next.wait_for(&name, ttl).await?;
    // The dead waiter becomes the holder half of its TTL later.
    context.sleep_until(enqueued + ttl / 2).await;
    holder.remove(&name, grant.attempt, context.long()).await?;
    let within = context.takeover(ttl, ttl);
    let Some(_) = next.await_grant(&name, attempt, ttl, within).await? else {
        broken!(
            "D4",
            "{within:?} after it was granted to a dead waiter the lock is still taken"
        );
    };
    let passed = next.now().since(before);
    ensure!(
        passed >= ttl * 99 / 100,
        "D4",
        "the dead waiter's grant ended {passed:?} after its report, before its TTL of {ttl:?}"
    );
    // If the grant had a new TTL, it would last for half a TTL longer.
    let bound = context.capabilities().takeover.of(ttl, ttl);
    let latest = bound + context.slack();
    ensure!(
        passed <= latest,
        "D4",
        "the dead waiter's grant lasted {passed:?} from its last report, with a bound of {bound:?}"
    );
    Ok(())
}

pub(crate) async fn overtaken_push_is_dropped(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let ttl = context.long();
    let holder = context.driver().await?;
    let name = context.name("overtaken")?;
    let grant = holder.hold(&name, ttl).await?;
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl))
        .await?;
    let lock = client.lock("overtaken")?;
    let mut waiting = tokio::spawn(async move { lock.acquire().await });
    context.until_waiting(&holder, &name, 1).await?;
    let calls = plan.calls(Op::Enqueue);
    let attempts = calls.first().map(|call| call.attempts.as_slice());
    let Some([attempt]) = attempts else {
        return Err(Failure::new(None, "the enqueue was not seen").into());
    };
    let old = Grant::pushed(*attempt, FencingToken::new(1), ttl, StoreTime::new(0));
    plan.forge(&BackendEvent::Granted(old));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    ensure!(
        early.is_err(),
        "D4",
        "a message from before the last answer made the waiter believe that it holds the lock"
    );
    holder.remove(&name, grant.attempt, ttl).await?;
    let guard = waiting.await??;
    ensure!(
        guard.token() > grant.token && guard.phase() == Phase::Held,
        "D4",
        "the waiter took over the token of an overtaken message"
    );
    release(&guard).await?;
    Ok(())
}

pub(crate) async fn messages_are_dated_after_the_answers(context: Arc<CaseContext>) -> Outcome {
    context.need_push()?;
    let (holder, waiter) = (context.driver().await?, context.driver().await?);
    let name = context.name("dated")?;
    let ttl = context.long();
    let grant = holder.hold(&name, ttl).await?;
    let attempt = waiter.wait_for(&name, ttl).await?;
    let mut latest = StoreTime::new(0);
    for _ in 0..3 {
        match waiter.renew(&name, attempt, ttl, None).await? {
            Renewed::Waiting(answer) => {
                ensure!(
                    answer.as_of >= latest,
                    "D4",
                    "the store's time of a report is {:?}, after {latest:?}",
                    answer.as_of
                );
                latest = answer.as_of;
            }
            other => broken!("W5", "the renewal of a waiter returned {other:?}"),
        }
    }
    holder.remove(&name, grant.attempt, ttl).await?;
    let Some(pushed) = waiter.await_push(attempt, context.slack()).await else {
        broken!("W2", "the waiter got no message of its grant");
    };
    // A message with a proof is valid, whatever its store time.
    ensure!(
        pushed.proved_from.is_some() || pushed.as_of > latest,
        "D4",
        "the message has the store time {:?}, but the grant followed a reply of {latest:?}",
        pushed.as_of
    );
    waiter.remove(&name, attempt, ttl).await?;
    Ok(())
}
