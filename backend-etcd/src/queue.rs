//! Where an attempt stands in its queue: the one transaction that a waiter runs when its
//! predecessor is gone.

use std::{sync::Weak, time::Duration};

use etcd_client::KeyValue;
use tenure_core::{
    backend::BackendEvent,
    error::{Error, ErrorKind},
    id::AttemptId,
    loss::LossReason,
    request::{Grant, StoreTime, Waiting},
};

use crate::{
    attempts::{Predecessor, Stage, Successor},
    error::{RequestError, backend_error},
    keys::{display_key, parse_below},
    lease::Lease,
    record::{self, QueueEntry},
    shared::Shared,
    txn,
};

const OPERATION: &str = "waiting for";

/// After the watch has reported a removal by this client, how long to wait for the reply to that
/// removal.
const REMOVAL_REPLY_GRACE: Duration = Duration::from_millis(100);

/// The position of an attempt in its queue.
#[derive(Debug)]
pub(crate) enum Position {
    Granted(Grant),
    Waiting(Waiting),
    /// The store has no entry of this attempt.
    Gone,
}

/// Reads the position of an attempt whose revision is known.
pub(crate) async fn locate(
    shared: &Shared,
    attempt: AttemptId,
) -> Result<Result<Position, Error>, RequestError> {
    let Some(snapshot) = shared.attempts.snapshot(attempt) else {
        return Ok(Ok(Position::Gone));
    };
    let Some(lease) = snapshot.lease.filter(|_| snapshot.revision > 0) else {
        return Ok(Ok(Position::Gone));
    };
    let (prefix, revision) = (shared.keys.prefix(&snapshot.name), snapshot.revision);
    let mut reply = shared
        .txn_read_only(txn::locate(&prefix, &snapshot.key, revision))
        .await?;
    if !reply.succeeded {
        return Ok(match reply.next_kv()? {
            // A key that was deleted and put again is not the entry of this attempt.
            Some(own) if own.create_revision() == revision => {
                Err(altered_key(OPERATION, &snapshot.key))
            }
            _ => Ok(Position::Gone),
        });
    }
    shared.attempts.update(attempt, |entry| {
        entry.verified_revision = entry.verified_revision.max(reply.revision);
    });
    let (predecessor, first) = (reply.next_kv()?, reply.next_kv()?);
    let Some(predecessor) = predecessor else {
        mark_holding(shared, attempt);
        return Ok(Ok(Position::Granted(grant(
            shared, attempt, &lease, revision,
        ))));
    };
    let known = first.and_then(|first| {
        let holder = parse_below(&prefix, first.key())?;
        parse_below(&prefix, predecessor.key())?;
        Some((first, holder))
    });
    let (next, as_of) = match known {
        Some((first, holder)) => match record::read(OPERATION, holder, &first) {
            Ok(holder) => (
                Some(predecessor_with_holder(&predecessor, &holder)),
                reply.revision,
            ),
            // The holder cannot be shown, but it is in front all the same.
            Err(_) => (
                Some(predecessor_without_holder(&predecessor)),
                reply.revision,
            ),
        },
        None => match find_predecessor(shared, &prefix, revision).await? {
            Some((predecessor, as_of)) => (Some(predecessor), as_of),
            None => (None, reply.revision),
        },
    };
    let Some(next) = next else {
        mark_holding(shared, attempt);
        return Ok(Ok(Position::Granted(grant(
            shared, attempt, &lease, revision,
        ))));
    };
    Ok(Ok(Position::Waiting(mark_waiting(
        shared, attempt, &lease, as_of, next,
    ))))
}

fn predecessor_without_holder(predecessor: &KeyValue) -> Predecessor {
    Predecessor {
        key: String::from_utf8_lossy(predecessor.key()).into_owned(),
        revision: predecessor.create_revision(),
        watch: 0,
        is_holder: false,
        read_by_removal: false,
        holder: None,
    }
}

/// The predecessor of an entry when some keys below the prefix are not contenders, and the revision
/// at which it was read.
pub(crate) async fn find_predecessor(
    shared: &Shared,
    prefix: &str,
    revision: i64,
) -> Result<Option<(Predecessor, i64)>, RequestError> {
    let (found, as_of) = shared.contenders(prefix, Some(revision)).await?;
    Ok(found
        .last()
        .map(|predecessor| (predecessor_without_holder(predecessor), as_of)))
}

/// A grant under this lease.
pub(crate) fn grant(shared: &Shared, attempt: AttemptId, lease: &Lease, revision: i64) -> Grant {
    let token = record::token(shared.context.token_floor.get(), revision);
    let mut grant = Grant::proved(attempt, token, lease.ttl, lease.proved_from());
    grant.as_of = StoreTime::new(u64::try_from(revision).unwrap_or(0));
    grant
}

/// The report of a waiter behind this predecessor.
pub(crate) fn waiting(lease: &Lease, revision: i64, predecessor: &Predecessor) -> Waiting {
    let as_of = StoreTime::new(u64::try_from(revision).unwrap_or(0));
    let waiting = Waiting::new(lease.proved_from(), as_of).with_holder(predecessor.holder.clone());
    match &predecessor.holder {
        Some(_) if predecessor.is_holder => waiting.with_ahead(1),
        _ => waiting,
    }
}

/// A predecessor together with the holder that was read with it.
pub(crate) fn predecessor_with_holder(predecessor: &KeyValue, holder: &QueueEntry) -> Predecessor {
    Predecessor {
        key: String::from_utf8_lossy(predecessor.key()).into_owned(),
        revision: predecessor.create_revision(),
        watch: 0,
        is_holder: predecessor.create_revision() == holder.revision,
        read_by_removal: false,
        holder: Some(holder.holder()),
    }
}

/// The error for an own entry that no longer holds what this client wrote.
pub(crate) fn altered_key(operation: &'static str, key: &str) -> Error {
    backend_error(
        ErrorKind::Corrupt,
        operation,
        format!(
            "another program has overwritten key {}; delete the key if nothing else uses it",
            display_key(key.as_bytes())
        ),
    )
}

/// Marks an attempt as the holder: no contender is in front of it any more.
pub(crate) fn mark_holding(shared: &Shared, attempt: AttemptId) {
    if let Some((ended, watched)) = shared.attempts.mark_holding(attempt) {
        shared.watcher.stop(ended.into_iter().collect());
        if !watched {
            shared.watcher.watch_own(shared, attempt);
        }
    }
}

/// Marks an attempt as a waiter behind this predecessor.
pub(crate) fn mark_waiting(
    shared: &Shared,
    attempt: AttemptId,
    lease: &Lease,
    as_of: i64,
    mut next: Predecessor,
) -> Waiting {
    let reply = waiting(lease, as_of, &next);
    let watch_id = shared.watcher.next_id();
    next.watch = watch_id;
    let key = next.key.clone();
    if let Some((ended, watched)) = shared.attempts.set_predecessor(attempt, next) {
        shared.watcher.stop(ended.into_iter().collect());
        // Checked after the waiter was registered, so that a removal that begins later finds it.
        let immediate = !shared.attempts.has_live_key(&key);
        shared
            .watcher
            .watch_predecessor(attempt, key, watch_id, as_of + 1, immediate);
        if !watched {
            shared.watcher.watch_own(shared, attempt);
        }
    }
    reply
}

/// Handles the reply to a removal of the holder by this client, which also contains the key of the
/// waiter directly behind it. That waiter is now the holder if its entry still exists.
pub(crate) fn promote(
    shared: &Shared,
    successor: &Successor,
    found: Option<&KeyValue>,
    as_of: i64,
) {
    let same = |kv: &&KeyValue| {
        kv.create_revision() == successor.revision && kv.mod_revision() == successor.revision
    };
    // If the entry is missing or changed, the watches report what happened to it.
    if found.filter(same).is_none() {
        return;
    }
    let is_waiting = shared.attempts.update(successor.attempt, |entry| {
        entry.verified_revision = entry.verified_revision.max(as_of);
        entry.stage == Stage::Waiting
    });
    if is_waiting == Some(true) {
        mark_holding(shared, successor.attempt);
        let grant = grant(
            shared,
            successor.attempt,
            &successor.lease,
            successor.revision,
        );
        shared.context.events.send(BackendEvent::Granted(grant));
    }
}

/// Checks whether an attempt whose predecessor is gone is now the holder.
pub(crate) async fn recheck(shared: Weak<Shared>, attempt: AttemptId) {
    let Some(shared) = shared.upgrade() else {
        return;
    };
    let read_by_removal = || {
        let table = shared.attempts.lock();
        let entry = table.get(attempt);
        let entry = entry.filter(|entry| entry.stage == Stage::Waiting);
        entry.map(|entry| {
            entry
                .predecessor
                .as_ref()
                .is_some_and(|predecessor| predecessor.read_by_removal)
        })
    };
    match read_by_removal() {
        None => return,
        Some(false) => {}
        // The reply to the removal is about to arrive and gives the same answer.
        Some(true) => {
            tokio::time::sleep(REMOVAL_REPLY_GRACE).await;
            if read_by_removal().is_none() {
                return;
            }
        }
    }
    let event = match locate(&shared, attempt).await {
        Ok(Ok(Position::Granted(grant))) => BackendEvent::Granted(grant),
        Ok(Ok(Position::Waiting(_))) => return,
        Ok(Ok(Position::Gone)) => loss_event(&shared, attempt),
        // The core rechecks the attempt by its own rules.
        Ok(Err(_)) | Err(_) => BackendEvent::Recheck { attempt },
    };
    if shared
        .attempts
        .snapshot(attempt)
        .is_some_and(|snapshot| snapshot.stage != Stage::Removing)
    {
        shared.context.events.send(event);
    }
}

/// The event for an entry that disappeared without a removal by this client. The reason depends on
/// whether its lease may have expired.
pub(crate) fn loss_event(shared: &Shared, attempt: AttemptId) -> BackendEvent {
    let lease = shared
        .attempts
        .snapshot(attempt)
        .and_then(|snapshot| snapshot.lease);
    let lapsed = lease.is_none_or(|lease| lease.may_have_expired(shared.now()));
    let reason = if lapsed {
        LossReason::SessionLost
    } else {
        LossReason::Evicted
    };
    BackendEvent::Lost { attempt, reason }
}
