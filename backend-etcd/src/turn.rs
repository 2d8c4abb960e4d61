//! Whose turn it is: the one transaction that a waiter asks when the one in front of it has gone.

use std::sync::Weak;

use tenure_core::{
    backend::BackendEvent,
    error::{Error, ErrorKind},
    id::AttemptId,
    loss::LossReason,
    request::{Grant, Waiting},
};

use crate::{
    backend::Core,
    book::{Ahead, Stage},
    enqueue::{ahead, grant, waiting},
    error::{Fault, error},
    keys::{below, shown},
    record,
    session::Lease,
    txn,
};

const OPERATION: &str = "waiting for";

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
    let Some(sight) = core.book.sight(attempt) else {
        return Ok(Ok(Turn::Gone));
    };
    let Some(lease) = sight.lease.filter(|_| sight.revision > 0) else {
        return Ok(Ok(Turn::Gone));
    };
    let (prefix, revision) = (core.keys.prefix(&sight.name), sight.revision);
    let mut answer = core.look(txn::turn(&prefix, &sight.key, revision)).await?;
    if !answer.succeeded {
        return Ok(match answer.one()? {
            // One that was put anew is not the one that was entered.
            Some(me) if me.create_revision() == revision => Err(altered(OPERATION, &sight.key)),
            _ => Ok(Turn::Gone),
        });
    }
    core.book.edit(attempt, |entry| {
        entry.verified = entry.verified.max(answer.revision);
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
            Ok(holder) => (Some(ahead(&before, &holder)), answer.revision),
            // It cannot be shown, and is in front all the same.
            Err(_) => (Some(unreadable(&before)), answer.revision),
        },
        None => match behind_noise(core, &prefix, revision).await? {
            Some((ahead, as_of)) => (Some(ahead), as_of),
            None => (None, answer.revision),
        },
    };
    let Some(next) = next else {
        hold(core, attempt);
        return Ok(Ok(Turn::Granted(grant(core, attempt, &lease, revision))));
    };
    Ok(Ok(Turn::Waiting(wait(core, attempt, &lease, as_of, next))))
}

fn unreadable(before: &etcd_client::KeyValue) -> Ahead {
    Ahead {
        key: String::from_utf8_lossy(before.key()).into_owned(),
        revision: before.create_revision(),
        watch: 0,
        is_holder: false,
        holder: None,
    }
}

/// Who is in front of an entry where something lies below the prefix that is no contender, and when
/// that was.
pub(crate) async fn behind_noise(
    core: &Core,
    prefix: &str,
    revision: i64,
) -> Result<Option<(Ahead, i64)>, Fault> {
    let (found, as_of) = core.contenders(prefix, Some(revision)).await?;
    Ok(found.last().map(|before| (unreadable(before), as_of)))
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
    let ended = core.book.edit(attempt, |entry| {
        entry.stage = Stage::Holding;
        let ended = entry.ahead.take().map(|ahead| ahead.watch);
        (ended, entry.watch == 0)
    });
    if let Some((ended, unwatched)) = ended {
        core.watcher.end(ended.into_iter().collect());
        if unwatched {
            core.watcher.own(core, attempt);
        }
    }
}

/// An attempt waits for that one.
pub(crate) fn wait(
    core: &Core,
    attempt: AttemptId,
    lease: &Lease,
    as_of: i64,
    mut next: Ahead,
) -> Waiting {
    let answer = waiting(lease, as_of, &next);
    let changed = core.book.edit(attempt, |entry| {
        entry.stage = Stage::Waiting;
        let same = |old: &Ahead| old.revision == next.revision && old.key == next.key;
        if entry.ahead.as_deref().is_some_and(same) {
            return None;
        }
        next.watch = core.watcher.number();
        let (key, watch) = (next.key.clone(), next.watch);
        let old = entry.ahead.replace(Box::new(next));
        Some((old.map(|old| old.watch), key, watch, entry.watch == 0))
    });
    if let Some(Some((ended, key, watch, unwatched))) = changed {
        core.watcher.end(ended.into_iter().collect());
        core.watcher.ahead(attempt, key, watch, as_of + 1);
        if unwatched {
            core.watcher.own(core, attempt);
        }
    }
    answer
}

/// The one in front of an attempt has gone: is it its turn?
pub(crate) async fn look(core: Weak<Core>, attempt: AttemptId) {
    let Some(core) = core.upgrade() else { return };
    if core
        .book
        .sight(attempt)
        .is_none_or(|sight| sight.stage != Stage::Waiting)
    {
        return;
    }
    let event = match turn(&core, attempt).await {
        Ok(Ok(Turn::Granted(grant))) => BackendEvent::Granted(grant),
        Ok(Ok(Turn::Waiting(_))) => return,
        Ok(Ok(Turn::Gone)) => lost(&core, attempt),
        // The core asks again, by its own rules.
        Ok(Err(_)) | Err(_) => BackendEvent::Look { attempt },
    };
    if core
        .book
        .sight(attempt)
        .is_some_and(|sight| sight.stage != Stage::Leaving)
    {
        core.context.events.send(event);
    }
}

/// An entry is gone without our doing. Why, is told by whether its lease had to live on.
pub(crate) fn lost(core: &Core, attempt: AttemptId) -> BackendEvent {
    let lease = core.book.sight(attempt).and_then(|sight| sight.lease);
    let lapsed = lease.is_none_or(|lease| lease.has_lapsed(core.now()));
    let reason = if lapsed {
        LossReason::SessionLost
    } else {
        LossReason::Evicted
    };
    BackendEvent::Lost { attempt, reason }
}
