//! Removing entries from a queue, and fencing off enqueues that may still arrive.

use etcd_client::KeyValue;
use tenure_core::{
    error::{Error, ErrorKind},
    id::AttemptId,
    name::LockName,
    request::{Remove, Removed},
};

use crate::{
    attempts::{AttemptSnapshot, Stage},
    error::RequestError,
    keys::parse_below,
    position::Entries,
    record,
    shared::Shared,
    txn::{self, AttemptKeys},
};

const OPERATION: &str = "releasing";

pub(crate) async fn remove(shared: &Shared, request: &Remove) -> Result<Removed, Error> {
    let attempt = request.attempt;
    if shared.attempts.is_fenced(attempt) {
        return Ok(Removed::Absent);
    }
    if !request.outcome_known {
        // From here on, nothing of this attempt continues in this client.
        let known = shared.attempts.begin_removal(attempt);
        if known.is_none() {
            shared.attempts.fence(attempt);
        }
        return match known {
            Some((snapshot, watch)) => {
                shared.watcher.stop(watch);
                remove_and_fence(shared, attempt, snapshot).await
            }
            None => find_and_remove(shared, attempt, &request.name).await,
        };
    }
    remove_known(shared, attempt, &request.name).await
}

/// Removes an attempt whose requests were all answered.
pub(crate) async fn remove_known(
    shared: &Shared,
    attempt: AttemptId,
    name: &LockName,
) -> Result<Removed, Error> {
    let Some((snapshot, watch)) = shared.attempts.begin_removal(attempt) else {
        return find_and_remove(shared, attempt, name).await;
    };
    shared.watcher.stop(watch);
    if snapshot.revision == 0 {
        return remove_and_fence(shared, attempt, snapshot).await;
    }
    let removed = delete_entry(shared, &snapshot)
        .await
        .map_err(removal_error)?;
    shared.attempts.forget(attempt);
    Ok(removed)
}

async fn delete_entry(
    shared: &Shared,
    snapshot: &AttemptSnapshot,
) -> Result<Removed, RequestError> {
    let revision = snapshot.revision;
    if snapshot.stage == Stage::Holding {
        let remove = txn::remove_holder(&snapshot.key, revision);
        return Ok(match shared.txn(remove).await?.succeeded {
            true => Removed::AsHolder,
            false => Removed::Absent,
        });
    }
    let prefix = shared.keys.prefix(&snapshot.name);
    let mut reply = shared
        .txn(txn::remove_waiter(&prefix, &snapshot.key, revision))
        .await?;
    if !reply.succeeded {
        return Ok(Removed::Absent);
    }
    Ok(match reply.next_kv()? {
        // If the key in front is no contender's, this attempt was the holder. It has no guard yet, so
        // nobody reads the difference.
        Some(_) => Removed::AsWaiter,
        None => Removed::AsHolder,
    })
}

/// Removes an attempt with an unanswered enqueue, which the store may still apply later.
async fn remove_and_fence(
    shared: &Shared,
    attempt: AttemptId,
    snapshot: AttemptSnapshot,
) -> Result<Removed, Error> {
    let Some(lease) = snapshot.lease else {
        // The attempt never had a lease, so nothing of it was sent.
        shared.attempts.fence(attempt);
        shared.attempts.forget(attempt);
        return Ok(Removed::Absent);
    };
    let (prefix, fence) = (
        shared.keys.prefix(&snapshot.name),
        shared.keys.fence(attempt),
    );
    let keys = AttemptKeys {
        prefix: &prefix,
        key: &snapshot.key,
        fence: &fence,
    };
    let removed = match shared.txn(txn::remove_and_fence(keys, lease.id)).await {
        Ok(mut reply) => {
            lease.add_fence();
            if reply.succeeded {
                let first = reply.next_kv().map_err(removal_error)?;
                match first {
                    // A key in front of a holder is not a contender.
                    _ if snapshot.stage == Stage::Holding => Removed::AsHolder,
                    Some(first) if first.key() == snapshot.key.as_bytes() => Removed::AsHolder,
                    _ => Removed::AsWaiter,
                }
            } else {
                Removed::Absent
            }
        }
        // The store has deleted every key attached to the lease and never uses the lease's id
        // again. It rejects an enqueue under that lease whenever it arrives.
        Err(RequestError::LeaseGone) => {
            shared.leases.mark_expired(&lease);
            Removed::Absent
        }
        Err(error) => return Err(removal_error(error)),
    };
    shared.attempts.fence(attempt);
    shared.attempts.forget(attempt);
    Ok(removed)
}

/// Removes an attempt that this client does not know: one of another client, or none at all.
async fn find_and_remove(
    shared: &Shared,
    attempt: AttemptId,
    name: &LockName,
) -> Result<Removed, Error> {
    let prefix = shared.keys.prefix(name);
    let found = shared.contenders(&prefix, None).await;
    let (found, _) = found.map_err(|error| error.into_read_error(OPERATION))?;
    let holders = Entries::new(OPERATION, &prefix, found.clone()).holder_count();
    let attempt_of = |kv: &KeyValue| {
        let contender = parse_below(&prefix, kv.key())?;
        record::read(OPERATION, contender, kv).ok()?.attempt()
    };
    let Some(position) = found.iter().position(|kv| attempt_of(kv) == Some(attempt)) else {
        return Ok(Removed::Absent);
    };
    let key = String::from_utf8_lossy(found[position].key()).into_owned();
    let leave = txn::remove_holder(&key, found[position].create_revision());
    let reply = shared.txn(leave).await.map_err(removal_error)?;
    Ok(match position {
        _ if !reply.succeeded => Removed::Absent,
        _ if position < holders => Removed::AsHolder,
        _ => Removed::AsWaiter,
    })
}

fn removal_error(error: RequestError) -> Error {
    let error = error.into_error(OPERATION);
    // The entry still exists, and the core has to try again.
    if error.kind() == ErrorKind::Protocol {
        return error.with_kind(ErrorKind::OutcomeUnknown);
    }
    error
}
