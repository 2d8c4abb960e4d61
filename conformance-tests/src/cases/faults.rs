//! Faults on connections to the store: lost replies, broken connections and stopped processes.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    Acquisition, Client, Guard, Release,
    clock::Instant,
    lease::{DriftBounds, Phase},
    loss::LossReason,
};
use tokio::task::JoinHandle;

pub(crate) use super::slow_network::{
    slow_client_stops_nobody, slow_waiter_keeps_its_place, wait_outlives_an_unanswered_enqueue,
};
use crate::{
    context::{CaseContext, release},
    fault::{Fault, Faulty},
    outcome::{Failure, Need, Outcome, Stop, broken, ensure},
    worker::{Job, Report, Worker},
};

/// The time limit for the first effect of a fault.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(20);

/// A faulty connector, and a client that uses it for all connections.
struct Broken {
    faulty: Faulty,
    client: Client,
    ttl: Duration,
}

impl Broken {
    async fn new(context: &CaseContext, ttl: Duration) -> Result<Self, Stop> {
        let faulty = context.env().faulty().await?;
        let faulty = faulty.ok_or(Stop::Ignored(Need::Faults))?;
        let client = context.client_over(&faulty, ttl).await?;
        Ok(Self {
            faulty,
            client,
            ttl,
        })
    }

    fn set(&self, fault: Fault) {
        self.faulty.line().set(fault);
    }

    /// Waits until the fault has had a further effect.
    async fn took_effect(&self, context: &CaseContext, before: u64) -> Outcome {
        let line = self.faulty.line();
        let seen = context
            .eventually(EFFECT_TIMEOUT, || async {
                Ok((line.effects() > before).then_some(()))
            })
            .await?;
        seen.ok_or_else(|| {
            let text = "the fault took no effect, so that this case shows nothing: do all connections \
                        of the faulty connector go over its line?";
            Failure::new(None, text).into()
        })
    }

    /// Checks that the client works again after the fault.
    async fn goes_on(&self, context: &CaseContext, name: &str) -> Result<Guard, Stop> {
        let within = context.takeover(self.ttl, self.ttl) + context.slack() * 2;
        let lock = self.client.lock(name)?;
        let got = context
            .eventually(within, || async {
                let tried = lock.acquire_within(context.slack()).await;
                Ok(tried.ok().and_then(Acquisition::acquired))
            })
            .await?;
        got.ok_or_else(|| {
            let text = format!(
                "{within:?} after the fault was over, its client cannot take the free lock"
            );
            Failure::new(Some("W2"), text).into()
        })
    }
}

pub(crate) async fn lost_answer_of_an_acquire_leaves_no_ghost(
    context: Arc<CaseContext>,
) -> Outcome {
    let broken = Broken::new(&context, context.steady()).await?;
    let driver = context.driver().await?;
    let bound = context.takeover(broken.ttl, broken.ttl);
    for taken in [false, true] {
        let text = if taken { "ghost-taken" } else { "ghost-free" };
        let name = context.name(text)?;
        let holder = match taken {
            true => Some(driver.hold(&name, context.long()).await?),
            false => None,
        };
        let before = broken.faulty.line().effects();
        broken.set(Fault::LoseReplies);
        let lock = broken.client.lock(text)?;
        let budget = broken.ttl;
        let acquiring = tokio::spawn(async move { lock.acquire_within(budget).await });
        broken.took_effect(&context, before).await?;
        broken.set(Fault::None);
        match acquiring.await? {
            // The lost reply belonged to another request.
            Ok(Acquisition::Acquired(guard)) if !taken => release(&guard).await?,
            Ok(Acquisition::Busy(_)) if taken => {}
            Ok(outcome) => broken!("A3", "an acquire whose reply was lost returned {outcome:?}"),
            Err(error) => ensure!(
                error.is_retryable(),
                "A3",
                "with its answer lost, an acquire failed as if for good: {error}"
            ),
        }
        if let Some(holder) = holder {
            let left = context
                .eventually(bound, || async {
                    let state = driver.inspect(&name).await?;
                    Ok(state.queue.is_empty().then_some(state.holder))
                })
                .await?;
            let Some(seen) = left else {
                broken!("A4", "after {bound:?} a failed attempt still waits");
            };
            ensure!(
                seen.and_then(|seen| seen.attempt) == Some(holder.attempt),
                "X1",
                "a failed attempt took the lock from its holder"
            );
            driver.remove(&name, holder.attempt, context.long()).await?;
        }
        context.until_idle(&driver, &name, bound, "A4").await?;
    }
    Ok(())
}

pub(crate) async fn lost_answer_of_a_release_frees_the_lock(context: Arc<CaseContext>) -> Outcome {
    let broken = Broken::new(&context, context.steady()).await?;
    let other = context
        .client_with(|builder| builder.ttl(broken.ttl))
        .await?;
    let guard = broken.client.lock("unheard")?.acquire().await?;
    let before = broken.faulty.line().effects();
    let valid_until = guard.valid_until();
    broken.set(Fault::LoseReplies);
    let releasing = tokio::spawn(async move { (guard.release().await, guard) });
    broken.took_effect(&context, before).await?;
    broken.set(Fault::None);
    let (released, guard) = releasing.await?;
    ensure!(
        guard.check().is_err(),
        "R1",
        "a guard is still held after its release was requested"
    );
    match released {
        Release::Released | Release::Unknown(_) => {}
        Release::NotHeld(reason) => ensure!(
            context.now() >= valid_until,
            "R1",
            "before its deadline a release whose answer was lost found it not held: {reason}"
        ),
        other => broken!("R1", "a release whose reply was lost returned {other:?}"),
    }
    let bound = context.takeover(broken.ttl, broken.ttl);
    let next = other.lock("unheard")?.acquire_within(bound).await?;
    match next.acquired() {
        Some(next) => release(&next).await,
        None => broken!("R2", "{bound:?} after its release the lock is still taken"),
    }
}

pub(crate) async fn broken_connections_end_no_grant(context: Arc<CaseContext>) -> Outcome {
    let broken = Broken::new(&context, context.possible_ttl(Duration::from_secs(4))).await?;
    let guard = broken.client.lock("resets")?.acquire().await?;
    let token = guard.token();
    let before = broken.faulty.line().effects();
    for round in 0..3 {
        // Alternately with a lost reply and without.
        if round % 2 == 0 {
            broken.faulty.line().reset();
        } else {
            broken.set(Fault::LoseReplies);
        }
        tokio::time::sleep(broken.ttl / 8).await;
        broken.set(Fault::None);
        tokio::time::sleep(broken.ttl / 8).await;
    }
    let deadline = guard.valid_until();
    let within = broken.ttl * 2;
    let renewed = context
        .eventually(within, || async {
            let over = guard.check() != Ok(token);
            Ok((over || guard.valid_until() > deadline).then_some(over))
        })
        .await?;
    ensure!(
        renewed == Some(false),
        "L5",
        "connections that broke for a moment ended the grant: it is {:?}",
        guard.phase()
    );
    if broken.faulty.line().effects() == before {
        return Err(
            Failure::new(None, "no connection broke, so that this case shows nothing").into(),
        );
    }
    release(&guard).await
}

pub(crate) async fn holder_in_a_black_hole_is_succeeded(context: Arc<CaseContext>) -> Outcome {
    cut_off(context, Fault::BlackHole).await
}

pub(crate) async fn holder_that_nobody_hears_is_succeeded(context: Arc<CaseContext>) -> Outcome {
    cut_off(context, Fault::HoldRequests).await
}

pub(crate) async fn holder_that_hears_nothing_is_succeeded(context: Arc<CaseContext>) -> Outcome {
    cut_off(context, Fault::HoldReplies).await
}

/// Disconnects a holder: it must be lost at its deadline and not before, the next waiter gets the lock
/// within the takeover bound and not before, and the client works again after the fault.
async fn cut_off(context: Arc<CaseContext>, fault: Fault) -> Outcome {
    let broken = Broken::new(&context, context.steady()).await?;
    let ttl = broken.ttl;
    let other = context.client_with(|builder| builder.ttl(ttl)).await?;
    let driver = context.driver().await?;
    let guard = Arc::new(broken.client.lock("cut-off")?.acquire().await?);
    let lock = other.lock("cut-off")?;
    let bound = context.takeover(ttl, ttl);
    let told = watch(&context, &guard);
    let holder = Arc::clone(&guard);
    let succeeding = tokio::spawn(async move {
        let next = lock.acquire().await?;
        // Checked while the next guard is held.
        let both = next.check().is_ok() && holder.check().is_ok();
        Ok::<_, Stop>((next, both))
    });
    context.until_waiting(&driver, guard.name(), 1).await?;
    let before = broken.faulty.line().effects();
    broken.set(fault);
    let cut = context.now();
    broken.took_effect(&context, before).await?;
    let Ok(told) = tokio::time::timeout(ttl * 2 + context.slack(), told).await else {
        broken!("L1", "a disconnected holder ({fault:?}) is not lost at all");
    };
    let Told { at, due, reason } = told?;
    ensure!(
        at >= due,
        "L5",
        "cut off ({fault:?}), the guard was lost {:?} before its deadline: {reason}",
        due.since(at)
    );
    ensure!(
        at.since(due) < Duration::from_secs(1),
        "L1",
        "the guard of a disconnected holder ({fault:?}) was lost {:?} after its deadline",
        at.since(due)
    );
    // The renewals of a holder without replies may still arrive until its deadline.
    let since = if fault == Fault::HoldReplies { at } else { cut };
    let Ok(next) = tokio::time::timeout(bound + ttl, succeeding).await else {
        broken!(
            "X3",
            "{:?} after its holder was cut off ({fault:?}) the lock is not granted",
            bound + ttl
        );
    };
    let (next, both) = next??;
    ensure!(!both, "X1", "two guards are held at the same time");
    let took = context.now().since(since);
    ensure!(
        took <= bound,
        "X3",
        "after its holder was cut off ({fault:?}) the lock was granted in {took:?}, with a bound of {bound:?}"
    );
    ensure!(
        next.token() > guard.token(),
        "T1",
        "the token did not rise over a loss"
    );
    broken.set(Fault::None);
    ensure!(
        matches!(guard.phase(), Phase::Lost(_)),
        "L4",
        "reached again, a lost guard is {:?}",
        guard.phase()
    );
    tokio::time::sleep(ttl / 4).await;
    ensure!(
        next.check().is_ok(),
        "L4",
        "reached again, the one that had lost the lock ended the next one's grant"
    );
    release(&next).await?;
    let again = broken.goes_on(&context, "cut-off").await?;
    release(&again).await
}

struct Told {
    at: Instant,
    due: Instant,
    reason: LossReason,
}

/// Returns when the guard is lost, without polling.
fn watch(context: &Arc<CaseContext>, guard: &Arc<Guard>) -> JoinHandle<Told> {
    let (context, guard) = (Arc::clone(context), Arc::clone(guard));
    tokio::spawn(async move {
        let reason = guard.lost().await;
        Told {
            at: context.now(),
            due: guard.valid_until(),
            reason,
        }
    })
}

pub(crate) async fn waiter_that_was_cut_off_gets_its_turn(context: Arc<CaseContext>) -> Outcome {
    let broken = Broken::new(&context, context.steady()).await?;
    let ttl = broken.ttl;
    let driver = context.driver().await?;
    let name = context.name("waiter")?;
    // For less than the TTL of its entry, and for longer.
    for share in [ttl / 4, ttl * 2] {
        let grant = driver.hold(&name, context.long()).await?;
        let lock = broken.client.lock_named(name.clone());
        // The store may show the entry before the client has the reply.
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut tell = Some(tell);
        let waiting = tokio::spawn(async move {
            let queued = |_: &_| {
                if let Some(tell) = tell.take() {
                    let _ = tell.send(());
                }
            };
            lock.acquire_observed(None, queued).await
        });
        if tokio::time::timeout(EFFECT_TIMEOUT, told).await.is_err() {
            broken!("A1", "the waiter is not in the queue in time");
        }
        broken.set(Fault::BlackHole);
        tokio::time::sleep(share).await;
        if waiting.is_finished() {
            let outcome = waiting.await?;
            broken!(
                "W2",
                "during an outage, an acquire without a time limit returned {outcome:?}"
            );
        }
        broken.set(Fault::None);
        let within = ttl + context.slack() * 2;
        let back = context
            .eventually(within, || async {
                let queue = driver.inspect(&name).await?.queue;
                Ok((queue.len() == 1).then_some(()))
            })
            .await?;
        ensure!(
            back.is_some(),
            "W5",
            "{within:?} after it was cut off for {share:?}, a waiter is not in the queue"
        );
        driver.remove(&name, grant.attempt, context.long()).await?;
        let bound = context.takeover(ttl, ttl) + context.slack();
        let Ok(acquired) = tokio::time::timeout(bound, waiting).await else {
            broken!(
                "W2",
                "a waiter that was cut off for {share:?} sleeps past {bound:?}"
            );
        };
        match acquired?? {
            Acquisition::Acquired(guard) => release(&guard).await?,
            other => broken!("W2", "an acquire without a time limit returned {other:?}"),
        }
        context.until_idle(&driver, &name, bound, "W5").await?;
    }
    Ok(())
}

pub(crate) async fn refused_client_goes_on_by_itself(context: Arc<CaseContext>) -> Outcome {
    let broken = Broken::new(&context, context.steady()).await?;
    let guard = broken.client.lock("refused")?.acquire().await?;
    release(&guard).await?;
    let kept = context.env().residue().await?;
    broken.set(Fault::Refuse);
    // A try whose request was under way when the connection broke has an unknown outcome, and is fenced
    // off.
    let mut fenced = 0;
    for number in 0..3 {
        let begin = context.now();
        let lock = broken.client.lock(format!("refused-{number}"))?;
        match lock.try_acquire().await {
            Err(error) => {
                fenced += usize::from(!error.is_without_effect());
                ensure!(
                    error.is_retryable(),
                    "A3",
                    "the error of an unreachable store is not retryable: {error}"
                );
                let shown = format!("{error} {error:?}");
                ensure!(
                    context
                        .env()
                        .secrets()
                        .iter()
                        .all(|secret| !shown.contains(secret)),
                    "S1",
                    "the error of a store that cannot be reached shows a secret"
                );
            }
            Ok(outcome) => broken!("A3", "a try on an unreachable store returned {outcome:?}"),
        }
        let (took, limit) = (
            context.now().since(begin),
            context.over_limit() + context.slack(),
        );
        ensure!(
            took <= limit,
            "A1",
            "a try took {took:?}, with a time-out of {:?}",
            context.over_limit()
        );
    }
    broken.set(Fault::None);
    let guard = broken.goes_on(&context, "refused").await?;
    release(&guard).await?;
    if let (Some(before), Some(after)) = (kept, context.env().residue().await?) {
        ensure!(
            after <= before + fenced,
            "R4",
            "{before} locks had state in the store before three tries that were refused, and {after} \
             have it afterwards; {fenced} of the tries had an unknown outcome"
        );
    }
    Ok(())
}

pub(crate) async fn slow_store_counts_against_the_holder(context: Arc<CaseContext>) -> Outcome {
    const DELAY: Duration = Duration::from_millis(80);
    let broken = Broken::new(&context, context.possible_ttl(Duration::from_secs(4))).await?;
    // The session and the parents of the lock are created before the network is slow.
    release(&broken.client.lock("slow")?.acquire().await?).await?;
    let before = broken.faulty.line().effects();
    broken.set(Fault::Delay(DELAY));
    let guard = broken.client.lock("slow")?.acquire().await?;
    let validity = DriftBounds::DEFAULT.validity(guard.ttl());
    let in_time = |what: &str| -> Outcome {
        // A proof arrives after twice the delay, and counts from before it.
        let latest = context.now().before(DELAY * 2) + validity;
        ensure!(
            guard.valid_until() <= latest,
            "D1",
            "{what}, the deadline lies {:?} behind what a proof from before its request allows",
            guard.valid_until().since(latest)
        );
        Ok(())
    };
    in_time("once granted")?;
    let until = context.now() + broken.ttl * 3 / 2;
    while context.now() < until {
        ensure!(
            guard.check().is_ok(),
            "L5",
            "with answers that take {:?}, a grant of {:?} ended",
            DELAY * 2,
            broken.ttl
        );
        in_time("renewed")?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    broken.took_effect(&context, before).await?;
    release(&guard).await
}

pub(crate) async fn stopped_process_finds_its_lock_lost(context: Arc<CaseContext>) -> Outcome {
    let directory = tempfile::tempdir()?;
    let ttl = context.steady();
    let mut worker = Worker::start(&context, Job::Believe, "stopped", ttl, directory.path())?;
    let Report::Held { token, .. } = worker.report().await? else {
        return Err(Failure::new(None, "the worker did not take the lock").into());
    };
    let client = context.client_with(|builder| builder.ttl(ttl)).await?;
    worker.stop()?;
    let bound = context.takeover(ttl, ttl);
    let next = client.lock("stopped")?.acquire_within(bound).await?;
    let Some(next) = next.acquired() else {
        broken!(
            "X3",
            "{bound:?} after its holder was stopped the lock is not granted"
        );
    };
    let held_from = context.now();
    ensure!(next.token().get() > token, "T1", "the token did not rise");
    worker.go_on()?;
    // Its reports have times of a clock that all processes of this machine share.
    loop {
        match worker.report().await? {
            Report::Believed { held: true, at_us } => {
                let at = Instant::from_origin(Duration::from_micros(at_us));
                ensure!(
                    at < held_from,
                    "X1",
                    "a process that was stopped past its TTL reported the lock as held {:?} after \
                     the next one held it",
                    at.since(held_from)
                );
            }
            Report::Believed { held: false, .. } => break,
            other => broken!(
                "L4",
                "a process that was stopped past its TTL reported {other:?}"
            ),
        }
    }
    tokio::time::sleep(ttl / 4).await;
    ensure!(
        next.check().is_ok(),
        "L4",
        "a process that was stopped past its TTL ended the next one's grant"
    );
    worker.kill().await?;
    release(&next).await
}
