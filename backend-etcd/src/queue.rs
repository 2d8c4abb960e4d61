//! Whose turn it is: the one transaction that a waiter asks when the one in front of it has gone.

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
    error::{Fault, error},
    keys::{below, shown},
    lease::Lease,
    record::{self, Entry},
    shared::Core,
    txn,
};

const OPERATION: &str = "waiting for";

/// So long the answer to a removal of ours is waited for once the watch has told of it.
const ALMOST: Duration = Duration::from_millis(100);

/// What an attempt is.
#[derive(Debug)]
pub(crate) enum Turn {
    Granted(Grant),
    Waiting(Waiting),
    /// The store has no entry of it.
    Gone,
}

/// Asks for one attempt whose revision is known.
pub(crate) async fn turn(core: &Core, attempt: AttemptId) -> Result<Result<Turn, Error>, Fault> {
    let Some(snapshot) = core.attempts.snapshot(attempt) else {
        return Ok(Ok(Turn::Gone));
    };
    let Some(lease) = snapshot.lease.filter(|_| snapshot.revision > 0) else {
        return Ok(Ok(Turn::Gone));
    };
    let (prefix, revision) = (core.keys.prefix(&snapshot.name), snapshot.revision);
    let mut answer = core
        .look(txn::turn(&prefix, &snapshot.key, revision))
        .await?;
    if !answer.succeeded {
        return Ok(match answer.one()? {
            // One that was put anew is not the one that was entered.
            Some(me) if me.create_revision() == revision => Err(altered(OPERATION, &snapshot.key)),
            _ => Ok(Turn::Gone),
        });
    }
    core.attempts.update(attempt, |entry| {
        entry.verified_revision = entry.verified_revision.max(answer.revision);
    });
    let (before, first) = (answer.one()?, answer.one()?);
    let Some(before) = before else {
        hold(core, attempt);
        return Ok(Ok(Turn::Granted(grant(core, attempt, &lease, revision))));
    };
    let known = first.and_then(|first| {
        let holder = below(&prefix, first.key())?;
        below(&prefix, before.key())?;
        Some((first, holder))
    });
    let (next, as_of) = match known {
        Some((first, holder)) => match record::read(OPERATION, holder, &first) {
            Ok(holder) => (
                Some(predecessor_with_holder(&before, &holder)),
                answer.revision,
            ),
            // It cannot be shown, and is in front all the same.
            Err(_) => (Some(predecessor_without_holder(&before)), answer.revision),
        },
        None => match behind_noise(core, &prefix, revision).await? {
            Some((predecessor, as_of)) => (Some(predecessor), as_of),
            None => (None, answer.revision),
        },
    };
    let Some(next) = next else {
        hold(core, attempt);
        return Ok(Ok(Turn::Granted(grant(core, attempt, &lease, revision))));
    };
    Ok(Ok(Turn::Waiting(wait(core, attempt, &lease, as_of, next))))
}

fn predecessor_without_holder(before: &KeyValue) -> Predecessor {
    Predecessor {
        key: String::from_utf8_lossy(before.key()).into_owned(),
        revision: before.create_revision(),
        watch: 0,
        is_holder: false,
        read_by_removal: false,
        holder: None,
    }
}

/// Who is in front of an entry where something lies below the prefix that is no contender, and when
/// that was.
pub(crate) async fn behind_noise(
    core: &Core,
    prefix: &str,
    revision: i64,
) -> Result<Option<(Predecessor, i64)>, Fault> {
    let (found, as_of) = core.contenders(prefix, Some(revision)).await?;
    Ok(found
        .last()
        .map(|before| (predecessor_without_holder(before), as_of)))
}

/// What a grant under this lease is worth.
pub(crate) fn grant(core: &Core, attempt: AttemptId, lease: &Lease, revision: i64) -> Grant {
    let token = record::token(core.context.token_floor.get(), revision);
    let mut grant = Grant::proved(attempt, token, lease.ttl, lease.proved_from());
    grant.as_of = StoreTime::new(u64::try_from(revision).unwrap_or(0));
    grant
}

/// Waiting for that one.
pub(crate) fn waiting(lease: &Lease, revision: i64, predecessor: &Predecessor) -> Waiting {
    let as_of = StoreTime::new(u64::try_from(revision).unwrap_or(0));
    let waiting = Waiting::new(lease.proved_from(), as_of).with_holder(predecessor.holder.clone());
    match &predecessor.holder {
        Some(_) if predecessor.is_holder => waiting.with_ahead(1),
        _ => waiting,
    }
}

/// The one in front, of which it is known who the holder is.
pub(crate) fn predecessor_with_holder(predecessor: &KeyValue, holder: &Entry) -> Predecessor {
    Predecessor {
        key: String::from_utf8_lossy(predecessor.key()).into_owned(),
        revision: predecessor.create_revision(),
        watch: 0,
        is_holder: predecessor.create_revision() == holder.revision,
        read_by_removal: false,
        holder: Some(holder.holder()),
    }
}

/// An entry of ours does not hold any more what we wrote.
pub(crate) fn altered(operation: &'static str, key: &str) -> Error {
    error(
        ErrorKind::Corrupt,
        operation,
        format!(
            "key {} was written over by somebody; delete it if nothing else uses it",
            shown(key.as_bytes())
        ),
    )
}

/// An attempt is the holder: nobody is in front of it any more.
pub(crate) fn hold(core: &Core, attempt: AttemptId) {
    if let Some((ended, watched)) = core.attempts.mark_holding(attempt) {
        core.watcher.end(ended.into_iter().collect());
        if !watched {
            core.watcher.watch_own(core, attempt);
        }
    }
}

/// An attempt waits for that one.
pub(crate) fn wait(
    core: &Core,
    attempt: AttemptId,
    lease: &Lease,
    as_of: i64,
    mut next: Predecessor,
) -> Waiting {
    let answer = waiting(lease, as_of, &next);
    let number = core.watcher.number();
    next.watch = number;
    let key = next.key.clone();
    if let Some((ended, watched)) = core.attempts.set_predecessor(attempt, next) {
        core.watcher.end(ended.into_iter().collect());
        // Asked after this waiter was noted: a removal that begins later finds it.
        let soon = !core.attempts.has_live_key(&key);
        core.watcher
            .watch_predecessor(attempt, key, number, as_of + 1, soon);
        if !watched {
            core.watcher.watch_own(core, attempt);
        }
    }
    answer
}

/// The holder has gone by a request of ours, whose answer also tells of the waiter right behind it:
/// what is written there in its key's place. It is the holder now, if it is still there.
pub(crate) fn inherit(core: &Core, successor: &Successor, found: Option<&KeyValue>, as_of: i64) {
    let same = |kv: &&KeyValue| {
        kv.create_revision() == successor.revision && kv.mod_revision() == successor.revision
    };
    // What has become of one that is not as it was is told by the watches, in their time.
    if found.filter(same).is_none() {
        return;
    }
    let waits = core.attempts.update(successor.attempt, |entry| {
        entry.verified_revision = entry.verified_revision.max(as_of);
        entry.stage == Stage::Waiting
    });
    if waits == Some(true) {
        hold(core, successor.attempt);
        let grant = grant(
            core,
            successor.attempt,
            &successor.lease,
            successor.revision,
        );
        core.context.events.send(BackendEvent::Granted(grant));
    }
}

/// The one in front of an attempt has gone: is it its turn?
pub(crate) async fn look(core: Weak<Core>, attempt: AttemptId) {
    let Some(core) = core.upgrade() else { return };
    let waits = || {
        let pages = core.attempts.lock();
        let entry = pages.get(attempt);
        let entry = entry.filter(|entry| entry.stage == Stage::Waiting);
        entry.map(|entry| {
            entry
                .predecessor
                .as_ref()
                .is_some_and(|predecessor| predecessor.read_by_removal)
        })
    };
    match waits() {
        None => return,
        Some(false) => {}
        // The answer to the removal is about to come, and says the same.
        Some(true) => {
            tokio::time::sleep(ALMOST).await;
            if waits().is_none() {
                return;
            }
        }
    }
    let event = match turn(&core, attempt).await {
        Ok(Ok(Turn::Granted(grant))) => BackendEvent::Granted(grant),
        Ok(Ok(Turn::Waiting(_))) => return,
        Ok(Ok(Turn::Gone)) => lost(&core, attempt),
        // The core asks again, by its own rules.
        Ok(Err(_)) | Err(_) => BackendEvent::Look { attempt },
    };
    if core
        .attempts
        .snapshot(attempt)
        .is_some_and(|snapshot| snapshot.stage != Stage::Removing)
    {
        core.context.events.send(event);
    }
}

/// An entry is gone without our doing. Why, is told by whether its lease had to live on.
pub(crate) fn lost(core: &Core, attempt: AttemptId) -> BackendEvent {
    let lease = core
        .attempts
        .snapshot(attempt)
        .and_then(|snapshot| snapshot.lease);
    let lapsed = lease.is_none_or(|lease| lease.may_have_expired(core.now()));
    let reason = if lapsed {
        LossReason::SessionLost
    } else {
        LossReason::Evicted
    };
    BackendEvent::Lost { attempt, reason }
}
