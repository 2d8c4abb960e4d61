//! Inspecting, listing and evicting locks.

use std::{collections::BTreeMap, time::Duration};

use redis::Value;
use tenure_core::{
    error::{Error, ErrorKind},
    id::AttemptId,
    mode::Mode,
    name::LockName,
    request::{Evicted, Holder, List, Listed, LockState, Page, Waiter},
    token::FencingToken,
};

use crate::{
    error::{from_call_error, from_reply},
    record::{decode_owner, read_holder, system_time},
    remove::FENCE_TTL,
    scripts::{LAST_TOKEN_TTL, Reply, Scripts},
    shared::{Shared, group_by_slot},
    transport::ScriptCall,
};

/// The most waiters and joint holders in one reply. While a script runs, the server serves nobody else.
const MAX_WAITERS_PER_CALL: usize = 500;

/// The most locks in one call of the list script.
const MAX_LOCKS_PER_CALL: usize = 50;

/// Reads a lock and its queue without changing them. A queue of more than 500 entries is read in
/// several calls, between which it may change.
pub(crate) async fn inspect(shared: &Shared, name: &LockName) -> Result<LockState, Error> {
    const OPERATION: &str = "inspecting";
    let keys = shared.lock_keys(name)?;
    let (mut holders, mut queue) = (Vec::new(), Vec::new());
    let mut position = "-inf".to_owned();
    loop {
        let mut call = ScriptCall::new(&Scripts::get().inspect);
        keys.push_for_inspect(&mut call);
        call.arg(position);
        call.arg(MAX_WAITERS_PER_CALL);
        let mut reply = Reply::new(OPERATION, shared.run(OPERATION, call).await?)?;
        let now = reply.count()?;
        let raw = reply.text()?;
        let holder = read_holder(&raw, now, reply.number()?)?;
        position = reply.text()?;
        let shown = reply.list()?;
        if queue.is_empty() && holder.is_some() {
            holders = Vec::from_iter(holder);
        }
        for waiter in shown.rest() {
            let mut waiter = Reply::new(OPERATION, waiter)?;
            let attempt = AttemptId::parse(&waiter.text()?);
            let since = system_time(waiter.count()?);
            let owner = decode_owner(&waiter.text()?);
            let mode = Mode::parse(&waiter.text()?).unwrap_or_default();
            queue.push(Waiter::new(attempt, owner, Some(since)).with_mode(mode));
        }
        for record in reply.list()?.texts() {
            holders.extend(read_holder(&record?, now, -1)?);
        }
        if position.is_empty() {
            return Ok(LockState::with_holders(name.clone(), holders, queue));
        }
    }
}

/// Lists one page of the namespace's locks, using `SCAN`. A lock that exists during the whole scan
/// is listed at least once, and may be listed twice while the server rehashes.
pub(crate) async fn list(shared: &Shared, request: &List) -> Result<Page, Error> {
    const OPERATION: &str = "listing";
    let pattern = shared.keys.scan_pattern(&request.prefix);
    let (found, next) = shared
        .transport
        .scan(request.cursor.as_deref(), &pattern, request.limit)
        .await
        .map_err(|error| from_call_error(OPERATION, error))?;
    let mut names = BTreeMap::new();
    for found in found {
        let name = shared.keys.name_of(&found);
        if let Some(name) = name.filter(|name| name.as_str().starts_with(&request.prefix)) {
            let keys = shared.lock_keys(&name)?;
            let by_holder = found == keys.holder.as_bytes();
            let known = names.entry(name).or_insert((keys, false));
            known.1 |= by_holder;
        }
    }
    let locks: Vec<_> = names.into_iter().collect();
    let slots = locks
        .iter()
        .enumerate()
        .map(|(index, (_, (keys, _)))| (index, shared.transport.slot(&keys.holder)));
    let groups = group_by_slot(slots, MAX_LOCKS_PER_CALL);
    let calls = groups
        .iter()
        .map(|group| {
            let mut call = ScriptCall::new(&Scripts::get().list);
            for &index in group {
                let (keys, _) = &locks[index].1;
                keys.push_for_inspect(&mut call);
            }
            call
        })
        .collect();
    let mut answers: Vec<Option<_>> = groups.iter().map(|_| None).collect();
    shared
        .transport
        .call_all(calls, None, &mut |index, answer, _| {
            answers[index] = Some(answer)
        })
        .await;
    let mut page = Page::new(Vec::new(), next);
    for (group, answer) in groups.iter().zip(answers) {
        let Some(answer) = answer else { continue };
        let value = answer.map_err(|error| from_call_error(OPERATION, error))?;
        for (&index, shown) in group.iter().zip(Reply::new(OPERATION, value)?.rest()) {
            let (name, (_, by_holder)) = &locks[index];
            let listed = parse_listed(OPERATION, name, shown)?;
            // A lock with a holder is listed where its holder key is found, not where its queue key
            // is.
            page.locks
                .extend(listed.filter(|listed| *by_holder || listed.holder.is_none()));
        }
    }
    Ok(page)
}

fn parse_listed(
    operation: &'static str,
    name: &LockName,
    shown: Value,
) -> Result<Option<Listed>, Error> {
    if let Value::ServerError(error) = &shown {
        let error = from_reply(operation, error.code(), error.details().unwrap_or_default());
        // A malformed lock must not hide the others. `status` shows what is wrong with it.
        return match error.kind() {
            ErrorKind::Corrupt | ErrorKind::NewerFormat => {
                Ok(Some(Listed::new(name.clone(), Some(Holder::foreign()), 0)))
            }
            _ => Err(error),
        };
    }
    let mut reply = Reply::new(operation, shown)?;
    let now = reply.count()?;
    let raw = reply.text()?;
    let holder =
        read_holder(&raw, now, reply.number()?).unwrap_or_else(|_| Some(Holder::foreign()));
    let waiters = reply.count()?;
    let joint = reply.count()?;
    let idle = holder.is_none() && waiters == 0;
    let holders = joint.max(u64::from(holder.is_some()));
    Ok((!idle).then(|| Listed::new(name.clone(), holder, waiters).with_holders(holders)))
}

pub(crate) async fn evict(
    shared: &Shared,
    name: &LockName,
    token: FencingToken,
) -> Result<Evicted, Error> {
    const OPERATION: &str = "evicting";
    let keys = shared.lock_keys(name)?;
    let mut call = ScriptCall::new(&Scripts::get().evict);
    keys.push_all(&mut call);
    call.arg(token);
    call.arg(shared.token_floor());
    let grants_blocked = shared.restart_delay_error(OPERATION, &keys).is_some();
    call.arg(u8::from(grants_blocked));
    let mut reply = Reply::new(OPERATION, shared.run(OPERATION, call).await?)?;
    if reply.text()? == "evicted" {
        return Ok(Evicted::Evicted);
    }
    let now = reply.count()?;
    let raw = reply.text()?;
    Ok(Evicted::NotHeld(read_holder(&raw, now, reply.number()?)?))
}

/// Deletes the last token of a free lock. The fences of its attempts stay until they expire.
pub(crate) async fn discard(shared: &Shared, name: &LockName) -> Result<Option<Duration>, Error> {
    const OPERATION: &str = "discarding";
    let keys = shared.lock_keys(name)?;
    let mut call = ScriptCall::new(&Scripts::get().discard);
    keys.push_all(&mut call);
    let is_free = shared.run(OPERATION, call).await? == Value::Int(1);
    Ok(Some(if is_free { FENCE_TTL } else { LAST_TOKEN_TTL }))
}
