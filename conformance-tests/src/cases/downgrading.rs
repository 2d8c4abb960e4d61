//! Downgrades and upgrades: clauses M4 and M5.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    Acquisition,
    error::ErrorKind,
    mode::Mode,
    request::{Downgraded, Removed, Renewed},
};

use super::modes::{admitted, hold, still_waits, wait};
use crate::{
    context::{CaseContext, release},
    outcome::{Outcome, broken, ensure},
    wrap::{Fate, Op, Plan},
};

pub(crate) async fn downgrade_is_one_step(context: Arc<CaseContext>) -> Outcome {
    context.need_shared()?;
    let (writer, other) = (context.driver().await?, context.driver().await?);
    let name = context.name("downgrade")?;
    let ttl = context.long();
    let grant = hold(&context, &writer, &name, Mode::Exclusive).await?;
    let reader = wait(&context, &other, &name, Mode::Shared).await?;
    let queued = wait(&context, &other, &name, Mode::Exclusive).await?;
    let last = wait(&context, &other, &name, Mode::Shared).await?;
    // A repeated request has the effect of one.
    for _ in 0..2 {
        let downgraded = writer.downgrade(&name, &grant, ttl).await?;
        ensure!(
            downgraded == Downgraded::Shared,
            "M4",
            "the downgrade of a held grant reports {downgraded:?}"
        );
        let renewed = writer
            .renew_in(&name, grant.attempt, ttl, Some(grant.token), Mode::Shared)
            .await?;
        ensure!(
            matches!(renewed, Renewed::Proved { .. } | Renewed::Granted(_)),
            "M4",
            "a downgraded grant does not keep its token: {renewed:?}"
        );
        let admitted = admitted(
            &context,
            &other,
            &name,
            reader,
            "M4",
            "the reader right behind",
        )
        .await?;
        ensure!(
            admitted.floor == grant.token,
            "M3",
            "the floor beside a downgraded grant with {} is {}",
            grant.token,
            admitted.floor
        );
        still_waits(
            &context,
            &other,
            &name,
            queued,
            "M4",
            "a writer in the queue",
        )
        .await?;
        still_waits(
            &context,
            &other,
            &name,
            last,
            "M4",
            "a reader behind that writer",
        )
        .await?;
    }
    let state = writer.inspect(&name).await?;
    let shown: Vec<_> = state
        .holders()
        .map(|holder| (holder.token, holder.mode))
        .collect();
    ensure!(
        shown.first() == Some(&(Some(grant.token), Mode::Shared)) && shown.len() == 2,
        "M4",
        "after a downgrade, the holders are {shown:?}"
    );
    let removed = writer.remove(&name, grant.attempt, ttl).await?;
    ensure!(
        removed == Removed::AsHolder,
        "R1",
        "the release of a downgraded grant reports {removed:?}"
    );
    still_waits(
        &context,
        &other,
        &name,
        queued,
        "M1",
        "a writer behind the reader",
    )
    .await?;
    other.remove(&name, reader, ttl).await?;
    admitted(
        &context,
        &other,
        &name,
        queued,
        "M2",
        "the writer in the queue",
    )
    .await?;
    let gone = writer.downgrade(&name, &grant, ttl).await?;
    ensure!(
        matches!(gone, Downgraded::Gone(_)),
        "M4",
        "the downgrade of a grant that is gone reports {gone:?}"
    );
    still_waits(
        &context,
        &other,
        &name,
        last,
        "M4",
        "a reader behind the writer",
    )
    .await
}

pub(crate) async fn downgrade_without_an_answer_is_repeated(context: Arc<CaseContext>) -> Outcome {
    context.need_shared()?;
    let plan = Plan::new();
    let ttl = context.long();
    let limit = Duration::from_millis(500);
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl).request_timeout(limit))
        .await?;
    let rw = client.rw_lock("lost-downgrade")?;
    for fate in [Fate::LoseReply, Fate::HangReply] {
        let writing = rw.write().acquire().await?;
        let token = writing.token();
        plan.set_times(Op::Downgrade, fate, 2);
        let downgraded = tokio::time::timeout(context.slack() * 2, writing.downgrade()).await;
        let Ok(reading) = downgraded else {
            broken!("M4", "a downgrade without an answer is not repeated");
        };
        let reading = reading?;
        ensure!(
            reading.token() == token && reading.mode() == Mode::Shared,
            "M4",
            "a repeated downgrade has another token or mode: {reading:?}"
        );
        let beside = rw.read().try_acquire().await?;
        let Acquisition::Acquired(beside) = beside else {
            broken!(
                "M4",
                "after a repeated downgrade, a reader is kept out: {beside:?}"
            );
        };
        release(&beside).await?;
        release(&reading).await?;
    }
    Ok(())
}

pub(crate) async fn cancelled_downgrade_releases(context: Arc<CaseContext>) -> Outcome {
    context.need_shared()?;
    let plan = Plan::new();
    let ttl = context.long();
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl))
        .await?;
    let rw = client.rw_lock("cancelled-downgrade")?;
    for fate in [Fate::HangReply, Fate::Hang] {
        let writing = rw.write().acquire().await?;
        plan.set_times(Op::Downgrade, fate, 1);
        let downgrade = tokio::time::timeout(Duration::from_millis(200), writing.downgrade());
        ensure!(
            downgrade.await.is_err(),
            "M4",
            "a downgrade without an answer has ended"
        );
        let freed = rw.write().acquire_within(context.slack() * 2).await?;
        let Acquisition::Acquired(freed) = freed else {
            broken!("M4", "a cancelled downgrade does not release: {freed:?}");
        };
        release(&freed).await?;
    }
    Ok(())
}

pub(crate) async fn upgrade_is_refused(context: Arc<CaseContext>) -> Outcome {
    context.need_shared()?;
    let plan = Plan::new();
    let ttl = context.long();
    let client = context
        .client_through(&plan, |builder| builder.ttl(ttl))
        .await?;
    let reading = client.rw_lock("upgrade")?.read().acquire().await?;
    let sent = plan.calls(Op::Enqueue).len();
    let Err(error) = reading.upgrade() else {
        broken!("M5", "an upgrade is not refused");
    };
    ensure!(
        error.kind() == ErrorKind::Unsupported && error.to_string().contains("release it"),
        "M5",
        "the refusal of an upgrade does not say what to do instead: {error}"
    );
    ensure!(
        plan.calls(Op::Enqueue).len() == sent && reading.check().is_ok(),
        "M5",
        "a refused upgrade has sent a request, or has ended the guard"
    );
    release(&reading).await
}
