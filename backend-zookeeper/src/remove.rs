//! Taking one attempt out, whether it holds, waits, or may yet come into being.
//!
//! Why nothing of an attempt can come into being after its removal was answered: its only request
//! that makes anything is one `create`, sent once, on one connection of one session.
//!
//! - On the same connection, the servers carry out a session's requests in the order in which they
//!   were sent, so that the list that the removal asks for comes after it.
//! - On a later connection to another server, the leader has noted that server as the session's, and
//!   refuses what the earlier one forwards of it (`SESSION_MOVED`). The `sync` before the list waits
//!   for what the leader carried out before.
//! - On a later connection to the same server, the server has closed the earlier one when it took
//!   the session up again, and reads nothing more from it.
//! - A session that has ended takes its nodes along, and the servers refuse its requests.

use std::sync::Arc;

use tenure_core::{
    error::Error,
    id::AttemptId,
    request::{Remove, Removed},
};

use crate::{
    core::Core,
    enqueue::{listing, two},
    error::{of_read, of_write, unanswered},
    paths,
    queue::in_order,
    session::{Link, book::Place, time::until},
    wire::{
        conn::Fault,
        proto::{Code, Request},
    },
};

const OPERATION: &str = "releasing";

/// Removes, within the time of a request.
pub(crate) async fn remove(core: &Core, request: &Remove) -> Result<Removed, Error> {
    let attempt = request.attempt;
    if !request.outcome_known {
        core.fence(attempt);
    }
    let Some(session) = core.session_of(attempt) else {
        return of_others(core, request).await;
    };
    let (node, place, lock) = {
        let mut book = session.book();
        book.leave(attempt);
        match book.get(attempt) {
            None => (None, Place::Asked, None),
            Some(entry) => (
                entry.node.clone(),
                entry.place.clone(),
                Some(Arc::clone(&entry.lock)),
            ),
        }
    };
    let Some(lock) = lock else {
        core.forget(attempt);
        return Ok(Removed::Absent);
    };
    if session.is_over() || matches!(place, Place::Gone(_)) {
        core.forget(attempt);
        return Ok(Removed::Absent);
    }
    let limit = core.settings.limit();
    if session.up().is_none() {
        // One that lapses is taken up again, to be told that it is gone.
        session.want();
    }
    let link = match session.link(OPERATION, limit).await {
        Ok(link) => link,
        Err(_) if session.is_over() => {
            core.forget(attempt);
            return Ok(Removed::Absent);
        }
        Err(error) => return Err(error),
    };
    let clock = &*core.settings.context.clock;
    let found = match &node {
        Some(node) => until(clock, limit, delete(&link, node)).await,
        None => {
            let found = until(clock, limit, search(&link, &lock, attempt)).await;
            found.map(|found| found.map(|first| first.is_some()))
        }
    };
    match found {
        None => Err(unanswered(OPERATION)),
        Some(Err(_)) if session.is_over() => {
            core.forget(attempt);
            Ok(Removed::Absent)
        }
        Some(Err(error)) => Err(error),
        Some(Ok(found)) => {
            core.forget(attempt);
            Ok(match (found, place) {
                (false, _) => Removed::Absent,
                (true, Place::First) => Removed::AsHolder,
                (true, _) => Removed::AsWaiter,
            })
        }
    }
}

/// Removes an attempt that is none of this client's, or was removed before.
async fn of_others(core: &Core, request: &Remove) -> Result<Removed, Error> {
    let limit = core.settings.limit();
    let link = core.looking(OPERATION).await?;
    let lock = core.paths.lock(&request.name);
    let clock = &*core.settings.context.clock;
    let found = until(clock, limit, search(&link, &lock, request.attempt)).await;
    match found.ok_or_else(|| unanswered(OPERATION))?? {
        None => Ok(Removed::Absent),
        Some(true) => Ok(Removed::AsHolder),
        Some(false) => Ok(Removed::AsWaiter),
    }
}

/// Deletes a node; `false` if it was not there.
async fn delete(link: &Link, node: &str) -> Result<bool, Error> {
    match link.conn.delete(node).await {
        Ok(_) => Ok(true),
        Err(Fault::Refused(Code::NoNode)) => Ok(false),
        Err(fault) => Err(of_write(OPERATION, node, fault)),
    }
}

/// Looks for the nodes of an attempt, and deletes them. Tells whether one of them was first.
async fn search(link: &Link, lock: &str, attempt: AttemptId) -> Result<Option<bool>, Error> {
    let failed = |fault| of_read(OPERATION, lock, fault);
    let sent = link
        .conn
        .send_all([Request::sync(lock), Request::children(lock)]);
    let [synced, listed] = two(sent.map_err(failed)?)?;
    synced.get().await.map_err(failed)?;
    let names = match listing(listed).await {
        Ok((_, names)) => names,
        Err(Fault::Refused(Code::NoNode)) => return Ok(None),
        Err(fault) => return Err(failed(fault)),
    };
    let mut found = None;
    // The id is this attempt's alone, so that whatever is called so is its own.
    for (at, name) in in_order(&names).into_iter().enumerate() {
        if paths::attempt(name) == Some(attempt) && delete(link, &format!("{lock}/{name}")).await? {
            found = Some(found == Some(true) || at == 0);
        }
    }
    Ok(found)
}
