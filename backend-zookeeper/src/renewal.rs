//! Renewing grants and reporting waiters. The heartbeats of a session are for all of its attempts;
//! here they are only told of.

use std::{collections::HashMap, sync::Arc};

use tenure_core::{
    backend::BackendEvent,
    clock::Instant,
    error::Error,
    id::AttemptId,
    loss::LossReason,
    request::{Grant, Renewal, Renewed},
    token::FencingToken,
};
use tokio::task::JoinSet;

use crate::{
    core::Core,
    enqueue::{Asking, Stood, granted, told},
    error::unanswered,
    session::{Link, Session, book::Place, time::until},
    wire::{
        conn::Fault,
        proto::{Code, Request},
    },
};

const OPERATION: &str = "renewing";

/// How many nodes are asked for at once: heartbeats wait for the answers.
const AT_ONCE: usize = 256;

type Part = Vec<(usize, Renewal)>;

pub(crate) async fn renew(core: &Arc<Core>, entries: Vec<Renewal>) -> Vec<Renewed> {
    let mut answers: Vec<Option<Renewed>> = entries.iter().map(|_| None).collect();
    // By session: one that is cut off holds up no other.
    let mut parts: HashMap<usize, (Arc<Session>, Part)> = HashMap::new();
    for (index, entry) in entries.into_iter().enumerate() {
        match core.session_of(entry.attempt) {
            None => answers[index] = Some(Renewed::Gone(LossReason::Evicted)),
            Some(session) => parts
                .entry(Arc::as_ptr(&session).addr())
                .or_insert_with(|| (session, Vec::new()))
                .1
                .push((index, entry)),
        }
    }
    let split = parts.len() > 1;
    let mut running = JoinSet::new();
    for (session, part) in parts.into_values() {
        let core = Arc::clone(core);
        running.spawn(async move { renew_part(&core, &session, part, split).await });
    }
    while let Some(done) = running.join_next().await {
        for (index, answer) in done.unwrap_or_default() {
            answers[index] = Some(answer);
        }
    }
    let missing = || Renewed::Unknown(unanswered(OPERATION));
    answers
        .into_iter()
        .map(|answer| answer.unwrap_or_else(missing))
        .collect()
}

async fn renew_part(
    core: &Arc<Core>,
    session: &Arc<Session>,
    part: Part,
    split: bool,
) -> Vec<(usize, Renewed)> {
    let limit = core.settings.limit();
    session.want();
    let link = match session.link(OPERATION, limit).await {
        Ok(link) => link,
        Err(error) => return without(session, part, &error),
    };
    let waits = part.iter().filter(|(_, entry)| entry.token.is_none());
    let missed = missed(session, &link, waits.map(|(_, entry)| entry.attempt));
    let _ = until(&*core.settings.context.clock, limit, missed).await;
    // Those whose turn may have come are first, and are told at once: the others wait for a
    // heartbeat.
    let looking: Vec<&Renewal> = part
        .iter()
        .map(|(_, entry)| entry)
        .filter(|entry| entry.token.is_none() && needs_look(session, entry.attempt))
        .collect();
    // Who waits wants to know whether its turn has come, and not a newer proof.
    let at_once = part.iter().all(|(_, entry)| entry.token.is_none());
    let mut looks = JoinSet::new();
    for entry in looking {
        let (core, session, link) = (Arc::clone(core), Arc::clone(session), link.clone());
        let entry = entry.clone();
        looks.spawn(async move {
            let clock = &*core.settings.context.clock;
            let told = look(&core, &session, &link, &entry);
            if let Some(grant) = until(clock, limit, told).await.flatten()
                && !at_once
            {
                session.tell([BackendEvent::Granted(grant)]);
            }
        });
    }
    while looks.join_next().await.is_some() {}
    if !session.wait_checked(&link, limit).await {
        return without(session, part, &unanswered(OPERATION));
    }
    let proof = if at_once {
        session.wait_young(&link, limit).await
    } else {
        let newest = newest_told(session, &part);
        session.wait_proof(newest, &link, limit).await
    };
    let Some(from) = proof else {
        return without(session, part, &unanswered(OPERATION));
    };
    let answers: Vec<(usize, AttemptId, Renewed)> = part
        .into_iter()
        .map(|(index, entry)| (index, entry.attempt, answer(session, &link, &entry, from)))
        .collect();
    if split {
        session.tell(
            answers
                .iter()
                .filter_map(|(_, attempt, answer)| match answer {
                    Renewed::Proved { from } => Some(BackendEvent::Proved {
                        attempt: *attempt,
                        from: *from,
                    }),
                    Renewed::Granted(grant) => Some(BackendEvent::Granted(grant.clone())),
                    Renewed::Gone(reason) => Some(BackendEvent::Lost {
                        attempt: *attempt,
                        reason: *reason,
                    }),
                    _ => None,
                }),
        );
    }
    answers
        .into_iter()
        .map(|(index, _, answer)| (index, answer))
        .collect()
}

fn needs_look(session: &Session, attempt: AttemptId) -> bool {
    let book = session.book();
    match book.get(attempt).map(|entry| &entry.place) {
        Some(Place::Waiting(ahead)) => ahead.look,
        _ => false,
    }
}

/// Asks whether the nodes that are waited for are still there. The servers tell nobody of the end of
/// a node that he may not read any more, and need no right for this. Of each lock it is only asked
/// for the waiter that is first among ours: those behind it have their turns after it.
async fn missed(session: &Session, link: &Link, waits: impl Iterator<Item = AttemptId>) {
    // By lock; how many were ahead is known of different times, tokens are in the order of the queue.
    let mut firsts: HashMap<Arc<str>, (AttemptId, FencingToken, Arc<str>)> = HashMap::new();
    {
        let book = session.book();
        for attempt in waits {
            let Some(entry) = book.get(attempt) else {
                continue;
            };
            let Place::Waiting(ahead) = &entry.place else {
                continue;
            };
            let first = firsts.get(&entry.lock);
            if first.is_none_or(|(_, token, _)| entry.token < *token) {
                let it = (attempt, entry.token, Arc::clone(&ahead.next));
                firsts.insert(Arc::clone(&entry.lock), it);
            }
        }
    }
    let firsts: Vec<_> = firsts.into_values().collect();
    for some in firsts.chunks(AT_ONCE) {
        let requests = some.iter().map(|(_, _, next)| Request::exists(next, false));
        let Ok(answers) = link.conn.send_all(requests) else {
            return;
        };
        for ((attempt, _, next), answer) in some.iter().zip(answers) {
            if answer.get().await.err() == Some(Fault::Refused(Code::NoNode)) {
                session.book().missed(*attempt, next);
            }
        }
    }
}

/// Reads the queue again for a waiter.
async fn look(core: &Core, session: &Arc<Session>, link: &Link, entry: &Renewal) -> Option<Grant> {
    let lock = Arc::clone(&session.book().get(entry.attempt)?.lock);
    let asking = Asking {
        core,
        session,
        link,
        attempt: entry.attempt,
        lock: &lock,
        anew: None,
    };
    match asking.stand(None, false).await {
        Ok(Stood::First) => granted(session, entry.attempt, session.fresh_proof()?),
        Ok(Stood::Waiting | Stood::Gone) => None,
        Err(_) => {
            // What it had found out by then is not known to be watched.
            let _ = session.book().look(entry.attempt);
            None
        }
    }
}

/// The newest proof that any of them was told.
fn newest_told(session: &Session, part: &Part) -> Option<Instant> {
    let book = session.book();
    let told = part
        .iter()
        .filter_map(|(_, entry)| book.get(entry.attempt).and_then(|entry| entry.told));
    told.max()
}

/// The answers where nothing is proved.
fn without(session: &Session, part: Part, error: &Error) -> Vec<(usize, Renewed)> {
    let book = session.book();
    let over = session.is_over();
    part.into_iter()
        .map(|(index, entry)| {
            let answer = match book.get(entry.attempt).map(|entry| &entry.place) {
                None => Renewed::Gone(LossReason::Evicted),
                Some(Place::Gone(reason)) => Renewed::Gone(*reason),
                Some(_) if over => Renewed::Gone(LossReason::SessionLost),
                Some(_) => Renewed::Unknown(error.clone()),
            };
            (index, answer)
        })
        .collect()
}

/// The answer to one entry, the session being proved from there.
fn answer(session: &Session, link: &Link, entry: &Renewal, from: Instant) -> Renewed {
    let mut book = session.book();
    let Some(known) = book.get_mut(entry.attempt) else {
        return Renewed::Gone(LossReason::Evicted);
    };
    if let Place::Gone(reason) = known.place {
        return Renewed::Gone(reason);
    }
    if let Some(trouble) = &known.trouble {
        return Renewed::Unknown(trouble.clone());
    }
    if known.seen_by != link.number {
        return Renewed::Unknown(unanswered(OPERATION));
    }
    match (&known.place, entry.token) {
        (Place::First, Some(token)) if token != known.token => Renewed::Gone(LossReason::Displaced),
        (Place::First, Some(_)) => {
            known.told = Some(from);
            Renewed::Proved { from }
        }
        (Place::First, None) => {
            known.told = Some(from);
            Renewed::Granted(Grant::proved(entry.attempt, known.token, session.ttl, from))
        }
        (Place::Waiting(ahead), _) => {
            let answer = told(ahead, from);
            known.told = Some(from);
            Renewed::Waiting(answer)
        }
        (Place::Asked | Place::Gone(_), _) => Renewed::Unknown(unanswered(OPERATION)),
    }
}
