//! Parses what the scripts answer about an attempt's position.

use std::time::Duration;

use redis::Value;
use tenure_core::{
    clock::Instant,
    error::Error,
    id::AttemptId,
    request::{Enqueue, Enqueued, Grant, Holder, Renewed, StoreTime, Waiting},
    token::FencingToken,
};

use crate::{
    error::unexpected_reply,
    record::{loss_reason, read_holder},
    scripts::Reply,
};

/// Parses the reply to an enqueue.
pub(crate) fn parse_enqueued(
    operation: &'static str,
    request: &Enqueue,
    from: Instant,
    value: Value,
) -> Result<Enqueued, Error> {
    // The common case: the reply is the token alone.
    if let Value::BulkString(token) = &value {
        let token = std::str::from_utf8(token).ok();
        let token = token.and_then(|token| token.parse().ok());
        let token = FencingToken::new(token.ok_or_else(|| unexpected_reply(operation, &value))?);
        let grant = Grant::proved(request.attempt, token, request.ttl, from);
        return Ok(Enqueued::Granted(grant));
    }
    let mut reply = Reply::new(operation, value)?;
    match reply.text()?.as_str() {
        "granted" => Ok(Enqueued::Granted(parse_granted(
            &mut reply,
            request.attempt,
            from,
        )?)),
        "waiting" => Ok(Enqueued::Waiting(parse_waiting(&mut reply, from)?)),
        "busy" => {
            let now = reply.count()?;
            let raw = reply.text()?;
            let holder = holder_or_default(&raw, now, reply.number()?);
            Ok(Enqueued::Busy(holder.unwrap_or_default()))
        }
        "gone" => Ok(Enqueued::Gone),
        _ => Err(unexpected_reply(operation, &Value::Nil)),
    }
}

/// Reads a holder for display only. The script has already changed the queue, so a malformed record
/// of another client must not turn into an error that means "nothing was done".
fn holder_or_default(raw: &str, now: u64, foreign_ms: i64) -> Option<Holder> {
    read_holder(raw, now, foreign_ms).unwrap_or_else(|_| Some(Holder::default()))
}

/// Parses the rest of a "granted" reply.
fn parse_granted(reply: &mut Reply, attempt: AttemptId, from: Instant) -> Result<Grant, Error> {
    let token = FencingToken::new(reply.count()?);
    let ttl = Duration::from_micros(reply.count()?);
    let grant = Grant::proved(attempt, token, ttl, from);
    // An exclusive grant's floor is its token.
    if reply.is_empty() {
        return Ok(grant);
    }
    Ok(grant.with_floor(FencingToken::new(reply.count()?)))
}

/// Parses the rest of a "waiting" reply.
fn parse_waiting(reply: &mut Reply, from: Instant) -> Result<Waiting, Error> {
    let as_of = StoreTime::new(reply.count()?);
    let now = reply.count()?;
    let ahead = reply.count()?;
    let within = Duration::from_micros(reply.count()?);
    let raw = reply.text()?;
    let holder = holder_or_default(&raw, now, reply.number()?);
    Ok(Waiting::new(from, as_of)
        .with_ahead(ahead)
        .with_holder(holder)
        .with_recheck(Some(within)))
}

/// Parses the reply to one report.
pub(crate) fn parse_report(
    operation: &'static str,
    attempt: AttemptId,
    from: Instant,
    value: Value,
) -> Result<Renewed, Error> {
    let mut reply = Reply::new(operation, value)?;
    match reply.text()?.as_str() {
        "granted" => Ok(Renewed::Granted(parse_granted(&mut reply, attempt, from)?)),
        "waiting" => Ok(Renewed::Waiting(parse_waiting(&mut reply, from)?)),
        "gone" => Ok(Renewed::Gone(loss_reason(&reply.text()?))),
        _ => Err(unexpected_reply(operation, &Value::Nil)),
    }
}
