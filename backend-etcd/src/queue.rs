//! Where an attempt stands in its queue.
//!
//! A waiter runs one transaction before its turn, when only its predecessor is in front. If its
//! watch reports everything from that transaction on, the removal of the predecessor makes it the
//! holder without another request: at that revision its own entry existed, and nothing was in front
//! of it. In every other case, one more transaction decides.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use etcd_client::{GetOptions, KeyValue};
use tenure_core::{
    backend::BackendEvent,
    clock::Instant,
    error::{Error, ErrorKind},
    id::AttemptId,
    loss::LossReason,
    request::{Grant, StoreTime, Waiting},
    token::FencingToken,
};

use crate::{
    admission,
    attempts::{Attempt, Awaits, EntryId, NextStep, Predecessor, Stage},
    error::{RequestError, backend_error},
    keys::{display_key, parse_below},
    lease::Lease,
    position::{self, Entries, Placed},
    record,
    shared::Shared,
    txn::{self, EntryRef},
    watch::{Watch, WatchTarget},
};

const OPERATION: &str = "waiting for";

/// The time from a grant to the watch of its key. Most locks are released within it. The watch begins at
/// the revision of the grant, so it also reports what happened before.
const HOLDER_WATCH_DELAY: Duration = Duration::from_millis(20);

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
    shared: &Arc<Shared>,
    attempt: AttemptId,
) -> Result<Position, RequestError> {
    let Some(snapshot) = shared.attempts.snapshot(attempt) else {
        return Ok(Position::Gone);
    };
    let Some(lease) = snapshot.lease.filter(|_| snapshot.revision > 0) else {
        return Ok(Position::Gone);
    };
    let (prefix, revision) = (shared.keys.prefix(&snapshot.name), snapshot.revision);
    let entry = EntryRef {
        prefix: &prefix,
        key: &snapshot.key,
        revision,
        put_at: snapshot.put_at,
    };
    let window = admission::deciding_entries(snapshot.mode);
    let mut blocking = shared.attempts.blocking(attempt);
    if blocking.len() > txn::MAX_COMPARES {
        blocking = Arc::default();
    }
    let locate = if snapshot.mode.is_exclusive() {
        txn::locate(entry)
    } else if !blocking.is_empty() {
        txn::locate_behind(entry, &blocking)
    } else {
        txn::locate_among(entry, window)
    };
    let mut reply = shared.txn_read_only(locate).await?;
    if !reply.succeeded {
        return match reply.next_kv()? {
            // A key that was deleted and put again is not the entry of this attempt.
            Some(own) if own.create_revision() != revision => Ok(Position::Gone),
            // A put of this client has overtaken the read.
            Some(own) if shared.attempts.may_have_put(attempt, own.mod_revision()) => {
                Err(RequestError::no_reply())
            }
            Some(_) => Err(altered_key(OPERATION, &snapshot.key).into()),
            None => Ok(Position::Gone),
        };
    }
    let as_of = reply.revision;
    shared.attempts.update(attempt, |entry| {
        entry.verified_revision = entry.verified_revision.max(as_of);
    });
    if !snapshot.mode.is_exclusive() {
        let (entries, successor) = if blocking.is_empty() {
            let read = (reply.next_kv()?, reply.next_kvs()?);
            // Behind a key that is no entry, there may be one that waits for this one.
            let successor = reply
                .next_kv()?
                .map(|kv| position::mode_of(OPERATION, &prefix, &kv).unwrap_or(snapshot.mode));
            let entries = Entries::ahead(shared, OPERATION, &prefix, revision, read, window);
            (entries.await?, successor)
        } else {
            let first = reply.next_kv()?;
            let mut found = Vec::with_capacity(blocking.len());
            for ahead in &*blocking {
                let kv = reply.next_kv()?;
                found.extend(kv.filter(|kv| kv.create_revision() == ahead.revision));
            }
            let entries = Entries::blocking(shared, OPERATION, &prefix, revision, first, found);
            (entries.await?, None)
        };
        let placed = Placed {
            attempt,
            mode: snapshot.mode,
            revision,
            lease: &lease,
            prefix: &prefix,
            as_of,
            ahead: entries.len(),
            successor,
        };
        return Ok(position::place(shared, &placed, &entries, OPERATION));
    }
    let in_front = reply.next_kvs()?;
    let predecessor = match predecessor_of(&prefix, &in_front) {
        None if !in_front.is_empty() => find_predecessor(shared, &prefix, revision).await?,
        predecessor => predecessor,
    };
    Ok(match predecessor {
        Some(next) => Position::Waiting(mark_waiting(shared, attempt, &lease, as_of, next)),
        None => {
            mark_holding(shared, attempt, None);
            Position::Granted(grant(shared, attempt, &lease, revision, None))
        }
    })
}

/// The predecessor of an entry, from the last two keys in front of it, the last one first. `None` if
/// there is none, or if one of them is not a contender.
pub(crate) fn predecessor_of(prefix: &str, in_front: &[KeyValue]) -> Option<Predecessor> {
    let all = in_front.iter();
    let contenders: Option<Vec<_>> = all
        .map(|kv| parse_below(prefix, kv.key()).map(|contender| (kv, contender)))
        .collect();
    let contenders = contenders?;
    let (last, contender) = contenders.first()?;
    let before = contenders.get(1).map(|(kv, _)| EntryId {
        key: Arc::from(String::from_utf8_lossy(kv.key())),
        revision: kv.create_revision(),
    });
    // A holder that cannot be read is in front all the same.
    let holder = match before {
        None => record::read(OPERATION, *contender, last).ok(),
        Some(_) => None,
    };
    Some(Predecessor {
        key: String::from_utf8_lossy(last.key()).into_owned(),
        revision: last.create_revision(),
        before,
        holder: holder.map(|holder| holder.holder()),
        located: 0,
        created: None,
        removed_at: 0,
        awaits: Awaits::Turn,
        blocking: Arc::default(),
    })
}

/// The predecessor of an entry when some keys below the prefix are not contenders.
pub(crate) async fn find_predecessor(
    shared: &Shared,
    prefix: &str,
    revision: i64,
) -> Result<Option<Predecessor>, RequestError> {
    let (mut found, _) = shared.contenders(prefix, Some(revision)).await?;
    found.reverse();
    found.truncate(2);
    Ok(predecessor_of(prefix, &found))
}

/// A grant under this lease. `floor` is the lowest token of the holders, if it is another one's.
pub(crate) fn grant(
    shared: &Shared,
    attempt: AttemptId,
    lease: &Lease,
    revision: i64,
    floor: Option<FencingToken>,
) -> Grant {
    let token = record::token(shared.context.token_floor.get(), revision);
    let mut grant = Grant::proved(attempt, token, lease.ttl, lease.proved_from());
    grant.as_of = StoreTime::new(u64::try_from(revision).unwrap_or(0));
    // The client of the first holder may have another token floor.
    grant.floor = floor.map_or(token, |floor| floor.min(token));
    grant
}

/// The report of a waiter behind this predecessor.
pub(crate) fn waiting(from: Instant, revision: i64, predecessor: &Predecessor) -> Waiting {
    let as_of = StoreTime::new(u64::try_from(revision).unwrap_or(0));
    let waiting = Waiting::new(from, as_of).with_holder(predecessor.holder.clone());
    match &predecessor.holder {
        Some(_) if predecessor.before.is_none() && predecessor.awaits == Awaits::Turn => {
            waiting.with_ahead(1)
        }
        _ => waiting,
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

/// Marks an attempt as a holder: no contender in front of it keeps it from the lock any more. Returns
/// whether it was not marked before.
pub(crate) fn mark_holding(
    shared: &Arc<Shared>,
    attempt: AttemptId,
    floor: Option<FencingToken>,
) -> bool {
    let Some(ended) = shared.attempts.mark_holding(attempt, floor) else {
        return false;
    };
    shared.watcher.stop(ended);
    tokio::spawn(watch_holder(Arc::downgrade(shared), attempt));
    true
}

/// Watches the key of a holder, a little later: a lock that is released sooner is not watched, which
/// saves the server a third of the work of an acquire and release.
async fn watch_holder(shared: Weak<Shared>, attempt: AttemptId) {
    tokio::time::sleep(HOLDER_WATCH_DELAY).await;
    let Some(shared) = shared.upgrade() else {
        return;
    };
    let watch_id = shared.watcher.next_id();
    let is_new = |entry: &mut Attempt| {
        let is_new = entry.stage == Stage::Holding && entry.watch == 0;
        if is_new {
            entry.watch = watch_id;
        }
        is_new
    };
    if shared.attempts.update(attempt, is_new) == Some(true) {
        start_watch(&shared, attempt, watch_id, None, WatchTarget::Own);
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
    next.located = as_of;
    let reply = waiting(lease.proved_from(), as_of, &next);
    let watch_id = shared.watcher.next_id();
    let target = match (&next.awaits, &next.before) {
        (Awaits::Turn, Some(before)) => WatchTarget::Before {
            key: Arc::clone(&before.key),
        },
        (Awaits::Turn, None) => WatchTarget::Next {
            predecessor: Arc::from(next.key.as_str()),
        },
        (Awaits::Change { until, .. }, _) => WatchTarget::Entry {
            key: Arc::from(next.key.as_str()),
            until: *until,
        },
        (Awaits::AnyRemoval(_), _) => {
            // The stem of a key is the prefix of the lock and a lease.
            let end = next.key.rfind('/').map_or(0, |at| at + 1);
            WatchTarget::Queue {
                prefix: Arc::from(&next.key[..end]),
            }
        }
    };
    if let Some(ended) = shared.attempts.set_predecessor(attempt, next, watch_id) {
        shared.watcher.stop(ended);
        start_watch(shared, attempt, watch_id, Some(as_of + 1), target);
    }
    reply
}

/// Starts a watch that reports events from this revision on; without one, from the last revision at
/// which the attempt's key was seen.
fn start_watch(
    shared: &Shared,
    attempt: AttemptId,
    watch_id: u64,
    from: Option<i64>,
    target: WatchTarget,
) {
    let watch = shared.attempts.update(attempt, |entry| Watch {
        target,
        attempt,
        own: Arc::clone(&entry.key),
        from: from.unwrap_or_else(|| entry.revision.max(entry.verified_revision) + 1),
    });
    if let Some(watch) = watch {
        shared.watcher.start(watch_id, watch);
    }
}

/// Prepares the turn of a waiter: the contender before its predecessor is gone. Without effect if
/// another watch has replaced this one.
pub(crate) fn prepare_turn(shared: &Arc<Shared>, attempt: AttemptId, old_watch: u64) {
    let watch_id = shared.watcher.next_id();
    let predecessor = shared
        .attempts
        .set_next_in_line(attempt, old_watch, watch_id);
    let Some(predecessor) = predecessor else {
        return;
    };
    shared.watcher.stop(old_watch);
    let target = WatchTarget::Next {
        predecessor: Arc::from(predecessor),
    };
    start_watch(shared, attempt, watch_id, None, target);
    // Usually the server creates the watch before it answers this read.
    if shared.attempts.begin_recheck(attempt) {
        tokio::spawn(recheck(Arc::downgrade(shared), attempt));
    }
}

/// Takes the next step of a waiter.
pub(crate) fn take_step(shared: &Arc<Shared>, attempt: AttemptId, step: NextStep) {
    match step {
        NextStep::Wait => {}
        NextStep::Recheck => drop(tokio::spawn(recheck(Arc::downgrade(shared), attempt))),
        NextStep::Hold(lease, revision, watch) => {
            shared.watcher.keep_for_holder(watch);
            let grant = grant(shared, attempt, &lease, revision, None);
            shared.context.events.send(BackendEvent::Granted(grant));
        }
    }
}

/// Checks whether the contender before a waiter's predecessor is still there, which the watch with
/// this id has not seen.
pub(crate) async fn check_before(shared: Weak<Shared>, attempt: AttemptId, watch: u64, as_of: i64) {
    let Some(shared) = shared.upgrade() else {
        return;
    };
    let before = shared.attempts.update(attempt, |entry| {
        let predecessor = entry.predecessor.as_ref()?;
        predecessor.before.clone()
    });
    let Some(before) = before.flatten() else {
        return;
    };
    // Any member that has reached the revision of the watch can answer.
    let options = GetOptions::new().with_keys_only().with_serializable();
    let found = shared.get(&*before.key, options).await;
    let is_there = found.is_ok_and(|found| {
        let current = found.header().is_some_and(|at| at.revision() >= as_of);
        let kv = found.kvs().first();
        current && kv.is_some_and(|kv| kv.create_revision() == before.revision)
    });
    if !is_there {
        prepare_turn(&shared, attempt, watch);
    }
}

/// Checks whether the entry that a waiter waits for is as it was read. The watch with this id has not
/// seen what happened between the two.
pub(crate) async fn check_awaited(
    shared: Weak<Shared>,
    attempt: AttemptId,
    watch: u64,
    as_of: i64,
) {
    let Some(shared) = shared.upgrade() else {
        return;
    };
    let awaited = shared.attempts.update(attempt, |entry| {
        let predecessor = entry
            .predecessor
            .as_ref()
            .filter(|_| entry.watch == watch)?;
        match predecessor.awaits {
            Awaits::Change { until, put_at, .. } => {
                Some((predecessor.key.clone(), predecessor.revision, until, put_at))
            }
            Awaits::Turn | Awaits::AnyRemoval(_) => None,
        }
    });
    let Some((key, revision, until, put_at)) = awaited.flatten() else {
        return;
    };
    // Any member that has reached the revision of the watch can answer.
    let options = GetOptions::new().with_keys_only().with_serializable();
    let found = shared.get(key, options).await;
    let is_same = found.is_ok_and(|found| {
        let current = found.header().is_some_and(|at| at.revision() >= as_of);
        let is_same = |kv: &KeyValue| {
            kv.create_revision() == revision
                && (!position::awaits_put(until) || kv.mod_revision() == put_at)
        };
        current && found.kvs().first().is_some_and(is_same)
    });
    if !is_same {
        let step = shared.attempts.advance(attempt, shared.now(), |entry| {
            entry.record_change(watch, as_of);
        });
        take_step(&shared, attempt, step);
    }
}

/// Reads the position of a waiter whose turn has come or is near.
pub(crate) async fn recheck(shared: Weak<Shared>, attempt: AttemptId) {
    let Some(shared) = shared.upgrade() else {
        return;
    };
    loop {
        let located = locate(&shared, attempt).await;
        let step = if located.is_ok() {
            shared.attempts.end_recheck(attempt, shared.now())
        } else {
            shared.attempts.abandon_recheck(attempt);
            NextStep::Wait
        };
        let event = match (located, step) {
            (Ok(Position::Waiting(_)), NextStep::Recheck) => continue,
            (Ok(Position::Waiting(_)), step) => return take_step(&shared, attempt, step),
            (Ok(Position::Granted(grant)), _) => BackendEvent::Granted(grant),
            (Ok(Position::Gone), _) => loss_event(&shared, attempt),
            // The core rechecks the attempt by its own rules; the next event begins another read.
            (Err(_), _) => BackendEvent::Recheck { attempt },
        };
        if shared.attempts.update(attempt, |_| ()).is_some() {
            shared.context.events.send(event);
        }
        return;
    }
}

/// The event for an entry that disappeared without a removal by this client. The reason depends on
/// whether its lease may have expired.
pub(crate) fn loss_event(shared: &Shared, attempt: AttemptId) -> BackendEvent {
    let reason = loss_reason(shared, attempt);
    BackendEvent::Lost { attempt, reason }
}

/// Why an entry is gone that this client did not remove.
pub(crate) fn loss_reason(shared: &Shared, attempt: AttemptId) -> LossReason {
    let lease = shared
        .attempts
        .snapshot(attempt)
        .and_then(|snapshot| snapshot.lease);
    let lapsed = lease.is_none_or(|lease| lease.may_have_expired(shared.now()));
    if lapsed {
        LossReason::SessionLost
    } else {
        LossReason::Evicted
    }
}
