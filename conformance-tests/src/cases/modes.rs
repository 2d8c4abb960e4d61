//! Locks that several hold: clauses M1 to M7.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tenure_core::{
    Acquisition, Client, RwLock, Semaphore,
    capability::Requirements,
    error::ErrorKind,
    id::AttemptId,
    mode::Mode,
    name::LockName,
    request::{Enqueued, Evicted, Grant, Removed, Renewed},
};

pub(crate) use super::{
    downgrading::{
        cancelled_downgrade_releases, downgrade_is_one_step,
        downgrade_without_an_answer_is_repeated, upgrade_is_refused,
    },
    mixed_modes::{
        last_of_several_wakes_the_next, leaving_writer_lets_readers_join,
        mixed_tasks_never_overlap, one_release_admits_all_whose_turn_it_is,
    },
};
use crate::{
    context::{CaseContext, release},
    driver::Driver,
    outcome::{Failure, Outcome, Stop, broken, ensure},
    wrap::{Op, Plan},
};

pub(super) const fn permits(take: u32, of: u32) -> Mode {
    Mode::Permits { take, of }
}

fn is_busy(acquisition: Acquisition) -> bool {
    matches!(acquisition, Acquisition::Busy(_))
}

/// Returns the grant of a waiter that must be admitted now.
pub(super) async fn admitted(
    context: &CaseContext,
    driver: &Driver,
    name: &LockName,
    attempt: AttemptId,
    clause: &'static str,
    what: &str,
) -> Result<Grant, Stop> {
    let ttl = context.long();
    let within = context.takeover(ttl, ttl).min(context.slack() * 3);
    let granted = driver.await_grant(name, attempt, ttl, within).await?;
    granted.ok_or_else(|| {
        Failure::new(Some(clause), format!("{what} was not granted the lock")).into()
    })
}

/// Fails if a waiter holds the lock.
pub(super) async fn still_waits(
    context: &CaseContext,
    driver: &Driver,
    name: &LockName,
    attempt: AttemptId,
    clause: &'static str,
    what: &str,
) -> Outcome {
    match driver.renew(name, attempt, context.long(), None).await? {
        Renewed::Waiting(_) => Ok(()),
        other => {
            let text = format!("{what} should wait, but the answer is {other:?}");
            Err(Failure::new(Some(clause), text).into())
        }
    }
}

pub(super) async fn hold(
    context: &CaseContext,
    driver: &Driver,
    name: &LockName,
    mode: Mode,
) -> Result<Grant, Stop> {
    driver.hold_in(name, context.long(), mode).await
}

pub(super) async fn wait(
    context: &CaseContext,
    driver: &Driver,
    name: &LockName,
    mode: Mode,
) -> Result<AttemptId, Stop> {
    driver.wait_in(name, context.long(), mode).await
}

pub(crate) async fn readers_share_and_writers_exclude(context: Arc<CaseContext>) -> Outcome {
    context.need_shared()?;
    let (one, other) = (context.client().await?, context.client().await?);
    let rw = |client: &Client| -> Result<RwLock, Stop> { Ok(client.rw_lock("shared")?) };
    let first = rw(&one)?.read().acquire().await?;
    let second = rw(&other)?.read().try_acquire().await?;
    let Acquisition::Acquired(second) = second else {
        broken!("M1", "a second reader is kept out: {second:?}");
    };
    ensure!(
        is_busy(rw(&one)?.write().try_acquire().await?)
            && is_busy(one.lock("shared")?.try_acquire().await?),
        "M1",
        "a writer holds the lock beside readers"
    );
    let state = one.inspect("shared").await?;
    let shown: Vec<_> = state
        .holders()
        .map(|holder| (holder.token, holder.mode))
        .collect();
    let expected = [&first, &second].map(|guard| (Some(guard.token()), Mode::Shared));
    ensure!(
        shown == expected,
        "I1",
        "the holders are {expected:?}, and shown are {shown:?}"
    );
    release(&first).await?;
    ensure!(
        is_busy(rw(&one)?.write().try_acquire().await?),
        "M1",
        "a writer holds the lock beside the second of two readers"
    );
    release(&second).await?;
    let written = rw(&other)?.write().try_acquire().await?;
    let Acquisition::Acquired(writing) = written else {
        broken!(
            "R2",
            "the readers have left, and the lock is not free: {written:?}"
        );
    };
    ensure!(
        is_busy(rw(&one)?.read().try_acquire().await?),
        "M1",
        "a reader holds the lock beside a writer"
    );
    release(&writing).await
}

pub(crate) async fn permits_are_counted(context: Arc<CaseContext>) -> Outcome {
    context.need_permits()?;
    let (one, other) = (context.client().await?, context.client().await?);
    let of =
        |client: &Client, of| -> Result<Semaphore, Stop> { Ok(client.semaphore("counted", of)?) };
    let two = of(&one, 3)?.acquire_many(2).await?;
    ensure!(
        is_busy(of(&other, 3)?.permits(2)?.try_acquire().await?),
        "M1",
        "four of three permits are held"
    );
    ensure!(
        is_busy(of(&other, 9)?.try_acquire().await?),
        "M6",
        "an attempt that names another number of permits is admitted"
    );
    ensure!(
        is_busy(one.lock("counted")?.try_acquire().await?),
        "M1",
        "the whole lock is held beside permits of it"
    );
    let third = of(&other, 3)?.try_acquire().await?;
    let Acquisition::Acquired(third) = third else {
        broken!("M1", "the third of three permits is not free: {third:?}");
    };
    ensure!(
        is_busy(of(&one, 3)?.try_acquire().await?),
        "M1",
        "four of three permits are held"
    );
    release(&two).await?;
    let again = of(&other, 3)?.permits(2)?.try_acquire().await?;
    let Acquisition::Acquired(again) = again else {
        broken!(
            "R2",
            "two permits were released, and cannot be acquired: {again:?}"
        );
    };
    release(&again).await?;
    release(&third).await
}

pub(crate) async fn readers_do_not_pass_a_waiting_writer(context: Arc<CaseContext>) -> Outcome {
    context.need_shared()?;
    let (one, other) = (context.driver().await?, context.driver().await?);
    let name = context.name("reader-behind-writer")?;
    let reader = hold(&context, &one, &name, Mode::Shared).await?;
    let writer = wait(&context, &other, &name, Mode::Exclusive).await?;
    let behind = AttemptId::random()?;
    for (attempt, waits) in [(AttemptId::random()?, false), (behind, true)] {
        let answer = one
            .enqueue_in(&name, attempt, context.long(), waits, Mode::Shared)
            .await?;
        ensure!(
            matches!(answer, Enqueued::Busy(_) | Enqueued::Waiting(_)),
            "M2",
            "a reader passed a waiting writer: {answer:?}"
        );
    }
    one.remove(&name, reader.attempt, context.long()).await?;
    admitted(
        &context,
        &other,
        &name,
        writer,
        "M2",
        "the writer that waited first",
    )
    .await?;
    still_waits(
        &context,
        &one,
        &name,
        behind,
        "M1",
        "a reader behind the writer",
    )
    .await?;
    other.remove(&name, writer, context.long()).await?;
    admitted(
        &context,
        &one,
        &name,
        behind,
        "M2",
        "a reader behind the writer",
    )
    .await?;
    Ok(())
}

pub(crate) async fn readers_do_not_starve_a_writer(context: Arc<CaseContext>) -> Outcome {
    context.need_shared()?;
    let clients = [context.client().await?, context.client().await?];
    let name = "stream";
    let written = Arc::new(AtomicU32::new(0));
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..6 {
        let read = clients[reader % 2].rw_lock(name)?.read();
        let written = Arc::clone(&written);
        readers.spawn(async move {
            // Readers overlap, so that the lock is never free of them by itself.
            while written.load(Ordering::SeqCst) == 0 {
                let guard = read.acquire().await?;
                tokio::time::sleep(Duration::from_millis(15 + reader as u64)).await;
                release(&guard).await?;
            }
            Ok::<_, Stop>(())
        });
    }
    let held = context.eventually(context.slack(), || async {
        let state = clients[0].inspect(name).await?;
        Ok((state.holders().count() > 1).then_some(()))
    });
    ensure!(
        held.await?.is_some(),
        "M1",
        "six readers that keep coming do not hold the lock together"
    );
    let writer = clients[0].rw_lock(name)?.write();
    let within = context.takeover(context.long(), context.long());
    let acquired = writer.acquire_within(within).await;
    written.store(1, Ordering::SeqCst);
    let acquired = acquired?;
    let Acquisition::Acquired(guard) = acquired else {
        broken!(
            "M2",
            "readers that kept coming kept a writer out for {within:?}"
        );
    };
    release(&guard).await?;
    while let Some(done) = readers.join_next().await {
        done??;
    }
    Ok(())
}

pub(crate) async fn small_requests_do_not_pass_a_large_one(context: Arc<CaseContext>) -> Outcome {
    context.need_permits()?;
    let (one, other) = (context.driver().await?, context.driver().await?);
    let name = context.name("large-request")?;
    let held = hold(&context, &one, &name, permits(2, 3)).await?;
    let large = wait(&context, &other, &name, permits(3, 3)).await?;
    let small = AttemptId::random()?;
    for (attempt, waits) in [(AttemptId::random()?, false), (small, true)] {
        let answer = one
            .enqueue_in(&name, attempt, context.long(), waits, permits(1, 3))
            .await?;
        ensure!(
            matches!(answer, Enqueued::Busy(_) | Enqueued::Waiting(_)),
            "M2",
            "a small request passed a large one: {answer:?}"
        );
    }
    one.remove(&name, held.attempt, context.long()).await?;
    admitted(
        &context,
        &other,
        &name,
        large,
        "M2",
        "the request for all permits",
    )
    .await?;
    still_waits(&context, &one, &name, small, "M1", "a request behind it").await?;
    other.remove(&name, large, context.long()).await?;
    admitted(&context, &one, &name, small, "M2", "a request behind it").await?;
    Ok(())
}

pub(crate) async fn dead_reader_delays_by_its_ttl(context: Arc<CaseContext>) -> Outcome {
    context.need_permits()?;
    let (dead, living, next) = (
        context.driver().await?,
        context.driver().await?,
        context.driver().await?,
    );
    let name = context.name("dead-reader")?;
    let ttl = context.short();
    // The nearest entry ahead of the waiter lives; the dead one is behind it in the middle.
    let died = dead.now();
    dead.hold_in(&name, ttl, permits(2, 3)).await?;
    let beside = hold(&context, &living, &name, permits(1, 3)).await?;
    let waiter = wait(&context, &next, &name, permits(2, 3)).await?;
    let bound = context.takeover(ttl, context.long());
    let granted = next
        .await_grant(&name, waiter, context.long(), bound)
        .await?;
    let took = next.now().since(died);
    ensure!(
        granted.is_some(),
        "X3",
        "the permits of a dead holder with a TTL of {ttl:?} are not free after {took:?}"
    );
    ensure!(
        took >= ttl,
        "X3",
        "the permits of a silent holder with a TTL of {ttl:?} were granted again after {took:?}"
    );
    let renewed = living
        .renew_in(
            &name,
            beside.attempt,
            context.long(),
            Some(beside.token),
            beside_mode(),
        )
        .await?;
    ensure!(
        matches!(renewed, Renewed::Proved { .. } | Renewed::Granted(_)),
        "K2",
        "the holder beside the dead one has lost its grant: {renewed:?}"
    );
    Ok(())
}

const fn beside_mode() -> Mode {
    permits(1, 3)
}

pub(crate) async fn dead_writer_does_not_keep_readers_apart(context: Arc<CaseContext>) -> Outcome {
    context.need_shared()?;
    let (reader, dead, next) = (
        context.driver().await?,
        context.driver().await?,
        context.driver().await?,
    );
    let name = context.name("dead-writer")?;
    hold(&context, &reader, &name, Mode::Shared).await?;
    let ttl = context.short();
    dead.wait_in(&name, ttl, Mode::Exclusive).await?;
    let behind = wait(&context, &next, &name, Mode::Shared).await?;
    let bound = context.takeover(ttl, context.long());
    let granted = next
        .await_grant(&name, behind, context.long(), bound)
        .await?;
    ensure!(
        granted.is_some(),
        "W1",
        "a dead writer with a TTL of {ttl:?} keeps a reader from another one for {bound:?}"
    );
    Ok(())
}

pub(crate) async fn renewal_extends_one_of_several(context: Arc<CaseContext>) -> Outcome {
    context.need_shared()?;
    let (silent, living) = (context.driver().await?, context.driver().await?);
    let name = context.name("one-renews")?;
    let ttl = context.steady();
    let first = silent.hold_in(&name, ttl, Mode::Shared).await?;
    let begun = silent.now();
    let second = living.hold_in(&name, ttl, Mode::Shared).await?;
    let end = begun + context.takeover(ttl, ttl);
    loop {
        let renewed = living
            .renew_in(&name, second.attempt, ttl, Some(second.token), Mode::Shared)
            .await?;
        ensure!(
            matches!(renewed, Renewed::Proved { .. } | Renewed::Granted(_)),
            "K1",
            "a reader that renews in time has lost its grant: {renewed:?}"
        );
        let state = living.inspect(&name).await?;
        let tokens: Vec<_> = state.holders().filter_map(|holder| holder.token).collect();
        if !tokens.contains(&first.token) {
            return Ok(());
        }
        ensure!(
            living.now() < end,
            "K2",
            "a silent reader with a TTL of {ttl:?} still holds the lock, beside one that renews"
        );
        tokio::time::sleep(ttl / 20).await;
    }
}

pub(crate) async fn eviction_names_one_of_several(context: Arc<CaseContext>) -> Outcome {
    context.need_shared()?;
    let driver = context.driver().await?;
    let name = context.name("evict-one")?;
    let first = hold(&context, &driver, &name, Mode::Shared).await?;
    let second = hold(&context, &driver, &name, Mode::Shared).await?;
    let evicted = driver.backend().evict(&name, second.token).await?;
    ensure!(
        evicted == Evicted::Evicted,
        "I2",
        "the eviction of the second of two readers reports {evicted:?}"
    );
    let state = driver.inspect(&name).await?;
    let left: Vec<_> = state.holders().map(|holder| holder.attempt).collect();
    ensure!(
        left == [Some(first.attempt)],
        "I2",
        "after the eviction of one of two readers, these hold the lock: {left:?}"
    );
    let removed = driver.remove(&name, second.attempt, context.long()).await?;
    ensure!(
        removed == Removed::Absent,
        "R1",
        "the release of an evicted reader reports {removed:?}"
    );
    let still = driver.inspect(&name).await?.holders().count();
    ensure!(
        still == 1,
        "R1",
        "a stale release of a reader has removed another one"
    );
    Ok(())
}

pub(crate) async fn floor_is_the_lowest_live_token(context: Arc<CaseContext>) -> Outcome {
    context.need_shared()?;
    let driver = context.driver().await?;
    let name = context.name("floor")?;
    let ttl = context.long();
    let mut grants: Vec<Grant> = Vec::new();
    let (mut token, mut floor) = (0, 0);
    for round in 0..6 {
        let grant = hold(&context, &driver, &name, Mode::Shared).await?;
        grants.push(grant.clone());
        let lowest = grants.iter().map(|grant| grant.token).min();
        ensure!(
            Some(grant.floor) == lowest,
            "M3",
            "the floor of reader {round} is {}, and the lowest live token is {lowest:?}",
            grant.floor
        );
        ensure!(
            grant.token.get() > token && grant.floor.get() >= floor,
            "M3",
            "token {} and floor {} come after {token} and {floor}",
            grant.token,
            grant.floor
        );
        (token, floor) = (grant.token.get(), grant.floor.get());
        if round % 2 == 1 {
            // The oldest one leaves, then one in the middle.
            let gone = grants.remove(if round == 3 { 1 } else { 0 });
            driver.remove(&name, gone.attempt, ttl).await?;
        }
    }
    for grant in &grants {
        driver.remove(&name, grant.attempt, ttl).await?;
    }
    let exclusive = driver.hold(&name, ttl).await?;
    ensure!(
        exclusive.floor == exclusive.token && exclusive.token.get() > token,
        "M3",
        "an exclusive grant has the token {} and the floor {}",
        exclusive.token,
        exclusive.floor
    );
    Ok(())
}

pub(crate) async fn impossible_permits_are_refused(context: Arc<CaseContext>) -> Outcome {
    context.need_permits()?;
    let plan = Plan::new();
    let client = context.client_through(&plan, |builder| builder).await?;
    let semaphore = client.semaphore("impossible", 3)?;
    let mut refused = vec![client.semaphore("impossible", 0).err()];
    for take in [0, 4] {
        refused.push(semaphore.acquire_many(take).await.err());
    }
    let lock = client.lock("impossible")?.mode(permits(4, 3));
    refused.push(lock.try_acquire().await.err());
    for error in refused {
        ensure!(
            error
                .as_ref()
                .is_some_and(|error| error.kind() == ErrorKind::Config),
            "M6",
            "a request for permits that do not exist ends with {error:?}"
        );
    }
    ensure!(
        plan.calls(Op::Enqueue).is_empty(),
        "M6",
        "a request for permits that do not exist was sent to the store"
    );
    Ok(())
}

pub(crate) async fn missing_mode_is_refused(context: Arc<CaseContext>) -> Outcome {
    // A backend that offers every mode appears as one that was written before there were modes.
    let plan = Plan::new();
    plan.hide_modes();
    let client = context.client_through(&plan, |builder| builder).await?;
    let (rw, semaphore) = (client.rw_lock("missing")?, client.semaphore("missing", 3)?);
    for lock in [rw.read(), semaphore.permits(1)?] {
        let refused = lock.try_acquire().await;
        let kind = refused.as_ref().err().map(tenure_core::error::Error::kind);
        ensure!(
            kind == Some(ErrorKind::Unsupported) && plan.calls(Op::Enqueue).is_empty(),
            "M7",
            "a mode that the backend does not declare was not refused before a request: {refused:?}"
        );
    }
    let refused = rw.write().acquire().await?.downgrade().await;
    ensure!(
        refused.is_err() && plan.calls(Op::Downgrade).is_empty(),
        "M7",
        "a downgrade on a backend without shared locks was not refused before a request"
    );
    for (shared, permits) in [(true, false), (false, true)] {
        let mut required = Requirements::default();
        (required.shared, required.permits) = (shared, permits);
        let connected = context
            .client_through(&plan, |builder| builder.require(required))
            .await;
        ensure!(
            connected.is_err(),
            "M7",
            "a backend without a required mode was not refused"
        );
    }
    Ok(())
}
