//! Capabilities: clauses C1 to C3.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    capability::{Durability, Evidence, Requirements, WaitMode},
    error::ErrorKind,
};

use crate::{
    context::{CaseContext, release},
    outcome::{Need, Outcome, Stop, broken, ensure},
};

pub(crate) async fn make_sense(context: Arc<CaseContext>) -> Outcome {
    let driver = context.driver().await?;
    let declared = driver.backend().capabilities().await?;
    let again = driver.backend().capabilities().await?;
    ensure!(
        declared == again,
        "C1",
        "two requests for the capabilities returned {declared:?} and {again:?}"
    );
    let ttl = declared.ttl;
    ensure!(
        !ttl.min.is_zero() && ttl.min <= ttl.max && !ttl.granularity.is_zero(),
        "C1",
        "the TTL range makes no sense: {ttl:?}"
    );
    let steps = |span: Duration| span.as_nanos().is_multiple_of(ttl.granularity.as_nanos());
    ensure!(
        steps(ttl.min) && steps(ttl.max),
        "C1",
        "the ends of the TTL range are no multiples of its granularity: {ttl:?}"
    );
    ensure!(
        declared.takeover.holder_percent >= 100,
        "X3",
        "a takeover bound of {} % of the holder's TTL cannot be kept",
        declared.takeover.holder_percent
    );
    if let WaitMode::Poll { every } = declared.wait {
        ensure!(
            !every.is_zero() && every <= declared.takeover.of(ttl.min, ttl.min),
            "C1",
            "waiters that report every {every:?} cannot keep the takeover bound {:?}",
            declared.takeover
        );
    }
    let (of_connector, of_backend) = (context.env().connector().info(), driver.backend().info());
    ensure!(
        of_connector.scheme == of_backend.scheme && !of_backend.scheme.is_empty(),
        "C1",
        "the connector is {of_connector:?}, but the backend is {of_backend:?}"
    );
    Ok(())
}

pub(crate) async fn ttl_out_of_range_is_refused(context: Arc<CaseContext>) -> Outcome {
    let range = context.capabilities().ttl;
    let mut wrong = vec![range.max + range.granularity, range.min / 2];
    if range.granularity > Duration::from_nanos(1) {
        wrong.push(range.min + range.granularity / 2);
    }
    for ttl in wrong {
        match context.client_with(|builder| builder.ttl(ttl)).await {
            Err(Stop::Failed(failure)) if failure.to_string().contains("TTL") => {}
            Err(stop) => return Err(stop),
            Ok(_) => broken!(
                "C2",
                "a client with a TTL of {ttl:?} was made; the range is {range:?}"
            ),
        }
        let client = context.client().await?;
        match client.lock("range")?.ttl(ttl).try_acquire().await {
            Err(error) if error.kind() == ErrorKind::Config => {}
            other => broken!("C2", "a lock with a TTL of {ttl:?} returned {other:?}"),
        }
    }
    let long = range.max + range.granularity;
    let client = context
        .client_with(|builder| builder.ttl(long).clamp_ttl(true))
        .await?;
    let guard = client.lock("clamped")?.acquire().await?;
    ensure!(
        guard.ttl() == range.max,
        "C2",
        "a TTL of {long:?} was clamped to {:?}, and the longest is {:?}",
        guard.ttl(),
        range.max
    );
    release(&guard).await?;
    for ttl in [context.short(), context.steady(), context.long()] {
        let client = context.client_with(|builder| builder.ttl(ttl)).await?;
        let guard = client.lock("given")?.acquire().await?;
        ensure!(
            guard.ttl() >= ttl,
            "C2",
            "the requested TTL is {ttl:?}, but the guard has {:?}",
            guard.ttl()
        );
        release(&guard).await?;
    }
    Ok(())
}

pub(crate) async fn requirements_are_checked(context: Arc<CaseContext>) -> Outcome {
    let declared = context.capabilities();
    let met = Requirements::default().with_durability(declared.durability);
    context.client_with(|builder| builder.require(met)).await?;

    let mut lacking = Requirements::default();
    if declared.durability < Durability::Consensus {
        lacking = lacking.with_durability(Durability::Consensus);
    } else if !matches!(declared.wait, WaitMode::Push) {
        lacking.push = true;
    } else if declared.loss.evicted != Evidence::Push {
        lacking.push_evidence = true;
    } else {
        return Err(Stop::Ignored(Need::Lack));
    }
    match context
        .client_with(|builder| builder.require(lacking))
        .await
    {
        Ok(_) => broken!("C3", "{lacking:?} is required and {declared:?} accepted"),
        Err(Stop::Failed(failure)) => {
            let text = failure.to_string();
            ensure!(
                text.contains("is required, this backend"),
                "C3",
                "the error should name what is required and what the backend has: {text}"
            );
            Ok(())
        }
        Err(stop) => Err(stop),
    }
}
