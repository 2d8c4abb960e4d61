//! Several locks at once, elections, and a minimum hold: clauses M8, E1 to E3 and H1.

use std::{sync::Arc, time::Duration};

use tenure_core::{Acquisition, Client, Leader, NotHeld, Observer, Release};

use crate::{
    context::{CaseContext, release},
    outcome::{Outcome, Stop, broken, ensure},
    wrap::{Fate, Op, Plan},
};

pub(crate) async fn several_locks_never_block_each_other(context: Arc<CaseContext>) -> Outcome {
    const ROUNDS: usize = 10;
    let orders = [["account-7", "account-9"], ["account-9", "account-7"]];
    let mut tasks = tokio::task::JoinSet::new();
    for names in orders {
        let client = context.client().await?;
        tasks.spawn(async move {
            for _ in 0..ROUNDS {
                let guards = client.lock_all(names)?.acquire().await?;
                guards
                    .check()
                    .map_err(|ended| crate::outcome::Failure::new(Some("M8"), ended.to_string()))?;
                tokio::time::sleep(Duration::from_millis(2)).await;
                let released = guards.release().await;
                ensure!(released.is_ok(), "M8", "the release reports {released:?}");
            }
            Ok::<_, Stop>(())
        });
    }
    let within = context.takeover(context.long(), context.long());
    let all = async {
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(())
    };
    match tokio::time::timeout(within, all).await {
        Ok(done) => done,
        Err(_) => broken!(
            "M8",
            "two clients that want the same two locks wait for each other"
        ),
    }
}

pub(crate) async fn several_locks_are_all_held_or_none(context: Arc<CaseContext>) -> Outcome {
    let (one, other) = (context.client().await?, context.client().await?);
    let taken = other.lock("b")?.acquire().await?;
    let all = one.lock_all(["c", "b", "a", "a"])?;
    for acquired in [
        all.try_acquire().await?,
        all.acquire_within(Duration::from_millis(100)).await?,
    ] {
        ensure!(
            matches!(&acquired, Acquisition::Busy(holder) if holder.token == Some(taken.token())),
            "M8",
            "one of several locks is taken, and the answer is {acquired:?}"
        );
    }
    for name in ["a", "c"] {
        let free = other.lock(name)?.try_acquire().await?;
        let Acquisition::Acquired(guard) = free else {
            broken!("M8", "{name:?} was not given back: {free:?}");
        };
        release(&guard).await?;
    }
    release(&taken).await?;
    let guards = all.acquire().await?;
    let lost = guards
        .guards()
        .iter()
        .find(|guard| guard.name().as_str() == "b");
    let token = lost.map(tenure_core::Guard::token);
    let Some(token) = token.filter(|_| guards.guards().len() == 3) else {
        broken!(
            "M8",
            "three names were given, and the guards are {guards:?}"
        );
    };
    other.evict("b", token).await?;
    let within = context.takeover(context.long(), context.long());
    let lost = tokio::time::timeout(within, guards.lost()).await;
    ensure!(
        matches!(lost, Ok((name, _)) if name.as_str() == "b")
            && matches!(guards.check(), Err(NotHeld::Lost(_))),
        "M8",
        "one of several locks was evicted, and the guards report {lost:?}"
    );
    let released = guards.release().await;
    ensure!(
        released.as_ref().is_err_and(|failed| failed.0.len() == 1),
        "M8",
        "one of several locks was lost, and their release reports {released:?}"
    );
    Ok(())
}

pub(crate) async fn term_of_a_leader_is_its_token(context: Arc<CaseContext>) -> Outcome {
    let (one, other) = (context.client().await?, context.client().await?);
    let first = one.election("leader")?.campaign("first:80").await?;
    let second = other.election("leader")?;
    let busy = second.try_lead("second:80").await?;
    ensure!(
        matches!(busy, Acquisition::Busy(_)),
        "E1",
        "two lead at the same time: {busy:?}"
    );
    let leader = second.leader().await?;
    ensure!(
        matches!(&leader, Leader::Leads { value, term, .. }
            if value == "first:80" && *term == Some(first.term())),
        "E1",
        "the leader is {first:?}, and shown is {leader:?}"
    );
    other.evict("leader", first.term()).await?;
    let within = context.takeover(context.long(), context.long());
    let lost = tokio::time::timeout(within, first.lost()).await;
    ensure!(
        lost.is_ok() && first.check().is_err(),
        "E1",
        "a leader that was evicted still leads, by its own check"
    );
    let next = second.campaign("second:80").await?;
    ensure!(
        next.term() > first.term(),
        "E1",
        "the term {} comes after {}",
        next.term(),
        first.term()
    );
    for _ in 0..2 {
        let resigned = next.resign().await;
        ensure!(
            matches!(resigned, Release::Released),
            "E2",
            "a resignation, or its repetition, reports {resigned:?}"
        );
    }
    let vacant = second.leader().await?;
    ensure!(
        vacant == Leader::Vacant,
        "E2",
        "after a resignation, the leader is {vacant:?}"
    );
    Ok(())
}

pub(crate) async fn unanswered_resignation_is_unknown(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let ttl = context.long();
    let limit = Duration::from_millis(500);
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl).request_timeout(limit))
        .await?;
    let leading = client.election("resign")?.campaign("x").await?;
    plan.set(Op::Remove, Fate::HangReply);
    let resigned = leading.resign().await;
    ensure!(
        matches!(resigned, Release::Unknown(_)),
        "E2",
        "a resignation without an answer reports {resigned:?}"
    );
    plan.set(Op::Remove, Fate::Pass);
    let resigned = leading.resign().await;
    ensure!(
        matches!(resigned, Release::Released),
        "E2",
        "a repeated resignation reports {resigned:?}"
    );
    Ok(())
}

/// Returns what the observer tells next.
async fn told(context: &CaseContext, observer: &mut Observer, what: &str) -> Result<Leader, Stop> {
    let within = context.takeover(context.steady(), context.steady()) * 2;
    match tokio::time::timeout(within, observer.changed()).await {
        Ok(leader) => Ok(leader),
        Err(_) => broken!("E3", "an observer is not told of {what} within {within:?}"),
    }
}

fn value(leader: &Leader) -> Option<&str> {
    match leader {
        Leader::Leads { value, .. } => Some(value),
        _ => None,
    }
}

pub(crate) async fn observer_is_told_of_each_leader(context: Arc<CaseContext>) -> Outcome {
    let plan = Plan::new();
    let ttl = context.steady();
    let watching = context
        .client_through(&plan, |builder| builder.ttl(ttl))
        .await?;
    let client: Client = context.client_with(|builder| builder.ttl(ttl)).await?;
    let election = client.election("observed")?;
    let mut observer = watching.election("observed")?.observe();
    let leader = told(&context, &mut observer, "the vacancy").await?;
    ensure!(
        leader == Leader::Vacant,
        "E3",
        "nobody leads, and told is {leader:?}"
    );
    let mut terms = Vec::new();
    for number in 0..2 {
        let leading = election.campaign(format!("candidate-{number}")).await?;
        loop {
            let leader = told(&context, &mut observer, "a new leader").await?;
            if let Leader::Leads { value, term, .. } = &leader {
                ensure!(
                    *value == leading.value() && *term == Some(leading.term()),
                    "E3",
                    "{leading:?} leads, and told is {leader:?}"
                );
                terms.push(*term);
                break;
            }
        }
        ensure!(
            matches!(leading.resign().await, Release::Released),
            "E2",
            "a resignation is not acknowledged"
        );
    }
    ensure!(
        terms.is_sorted(),
        "E3",
        "the terms are told in the order {terms:?}"
    );
    let leader = told(&context, &mut observer, "the vacancy").await?;
    ensure!(
        leader == Leader::Vacant,
        "E3",
        "nobody leads, and told is {leader:?}"
    );
    // The store is silent for the observer.
    plan.set(Op::Inspect, Fate::Hang);
    let silent_from = context.now();
    let leader = told(&context, &mut observer, "the silence of the store").await?;
    ensure!(
        leader == Leader::Unknown,
        "E3",
        "the store has not answered for {:?}, and told is {leader:?}",
        context.now().since(silent_from)
    );
    let leading = election.campaign("last").await?;
    plan.set(Op::Inspect, Fate::Pass);
    let leader = told(&context, &mut observer, "the leader after the silence").await?;
    ensure!(
        value(&leader) == Some("last"),
        "E3",
        "\"last\" leads, and told is {leader:?}"
    );
    release(&leading).await
}

pub(crate) async fn minimum_hold_outlasts_the_guard(context: Arc<CaseContext>) -> Outcome {
    let ttl = context.steady();
    let (one, other) = (
        context.client_with(|builder| builder.ttl(ttl)).await?,
        context.client_with(|builder| builder.ttl(ttl)).await?,
    );
    // Longer than the TTL, so that the grant must be renewed after the guard has gone.
    let hold = ttl * 3 / 2;
    let lock = one.lock("minimum")?.min_hold(hold);
    let waiter = other.lock("minimum")?;
    for dropped in [true, false] {
        let guard = lock.acquire().await?;
        let granted = context.now();
        let release = async {
            if dropped {
                drop(guard);
                return Release::Released;
            }
            guard.release().await
        };
        let within = hold + context.takeover(ttl, ttl);
        let (released, next) = tokio::join!(release, waiter.acquire_within(within));
        let after = context.now().since(granted);
        let next = next?;
        let Acquisition::Acquired(next) = next else {
            broken!(
                "H1",
                "after a minimum hold of {hold:?}, the lock is not free after {after:?}"
            );
        };
        ensure!(
            after >= hold && matches!(released, Release::Released),
            "H1",
            "a lock with a minimum hold of {hold:?} was granted again after {after:?}: {released:?}"
        );
        crate::context::release(&next).await?;
    }
    Ok(())
}

pub(crate) async fn minimum_hold_is_named_at_shutdown(context: Arc<CaseContext>) -> Outcome {
    let (one, other) = (context.client().await?, context.client().await?);
    let hold = context.long() * 10;
    let guard = one.lock("shutdown")?.min_hold(hold).acquire().await?;
    let token = guard.token();
    drop(guard);
    let begun = context.now();
    let report = one.shutdown(Duration::from_millis(300)).await;
    let took = context.now().since(begun);
    ensure!(
        took <= context.slack(),
        "H1",
        "a shutdown with a bound of 300 ms waited for a minimum hold for {took:?}"
    );
    ensure!(
        report.unreleased.iter().any(|left| left.token == token),
        "H1",
        "the shutdown does not name the grant that its minimum hold keeps: {report:?}"
    );
    let taken = other.lock("shutdown")?.try_acquire().await?;
    ensure!(
        matches!(taken, Acquisition::Busy(_)),
        "H1",
        "a shutdown has ended a grant before its minimum hold"
    );
    Ok(())
}
