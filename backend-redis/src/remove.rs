//! Removing an attempt.

use std::time::Duration;

use redis::Value;
use tenure_core::{
    error::Error,
    request::{Remove, Removed},
};

use crate::{error::unexpected_reply, scripts, shared::Shared};

/// The minimum time for which an attempt is fenced off. On a connection that hangs, a request can
/// be delayed for longer than a short TTL.
pub(crate) const FENCE_TTL: Duration = Duration::from_secs(600);

pub(crate) async fn remove(shared: &Shared, request: &Remove) -> Result<Removed, Error> {
    const OPERATION: &str = "releasing";
    let keys = shared.lock_keys(&request.name)?;
    shared.waiting.remove(request.attempt);
    let fence = if request.outcome_known {
        Duration::ZERO
    } else {
        request.ttl.max(FENCE_TTL)
    };
    let grants_blocked = shared.restart_delay_error(OPERATION, &keys).is_some();
    let call = scripts::remove_call(
        &keys,
        request.attempt,
        fence,
        &shared.token_floor(),
        grants_blocked,
    );
    let value = shared.run(OPERATION, call).await?;
    match &value {
        Value::BulkString(word) if word == b"holder" => Ok(Removed::AsHolder),
        Value::BulkString(word) if word == b"waiter" => Ok(Removed::AsWaiter),
        Value::BulkString(word) if word == b"absent" => Ok(Removed::Absent),
        other => Err(unexpected_reply(OPERATION, other)),
    }
}
