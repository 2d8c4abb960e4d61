//! Enqueueing an attempt.

use tenure_core::{
    error::{Error, ErrorKind},
    request::{Enqueue, Enqueued, Remove},
};

use crate::{
    error::from_call_error, queue::parse_enqueued, remove, scripts, shared::Shared,
    transport::CallError,
};

pub(crate) async fn enqueue(shared: &Shared, request: Enqueue) -> Result<Enqueued, Error> {
    const OPERATION: &str = "acquiring";
    let keys = shared.lock_keys(&request.name)?;
    if let Some(error) = shared.restart_delay_error(OPERATION, &keys) {
        return Err(error);
    }
    let from = shared.now();
    let call = scripts::enqueue_call(
        &keys,
        &request,
        shared.context.client,
        &shared.token_floor(),
    );
    if shared.options.min_replicas == 0 {
        let value = shared.run(OPERATION, call).await?;
        return parse_enqueued(OPERATION, &request, from, value);
    }
    let mut outcome = (Err(CallError::no_reply()), 0);
    shared
        .call_granting(vec![call], &mut |_, answer, missing_acks| {
            outcome = (answer, missing_acks);
        })
        .await;
    let (answer, missing_acks) = outcome;
    let value = answer.map_err(|error| from_call_error(OPERATION, error))?;
    let answer = parse_enqueued(OPERATION, &request, from, value)?;
    if matches!(answer, Enqueued::Waiting(_)) {
        shared.waiting.add(&request);
    }
    if missing_acks == 0 || !matches!(answer, Enqueued::Granted(_)) {
        return Ok(answer);
    }
    // Too few replicas have the grant, so it is undone: after a failover, another client could be
    // granted the lock.
    let removal = Remove::new(request.name, request.attempt, request.ttl, true);
    let too_few = shared.too_few_replicas(OPERATION, missing_acks);
    match remove::remove(shared, &removal).await {
        Ok(_) => Err(too_few),
        Err(_) => Err(too_few.with_kind(ErrorKind::OutcomeUnknown)),
    }
}
