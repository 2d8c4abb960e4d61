//! Renewing grants and reporting waiters. The heartbeats of a session serve all its attempts; a
//! renewal reports what they have proved.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tenure_core::{
    backend::RenewalAnswers,
    error::Error,
    id::AttemptId,
    loss::LossReason,
    mode::Mode,
    request::{Renewal, Renewed},
};
use tokio::task::JoinSet;

use crate::{
    error::{RequestError, unanswered},
    locate::list,
    order::{count_holders, in_order},
    queue::Position,
    record::child_of,
    session::{Session, time::until},
    shared::Shared,
    transport::{Connection, answer},
};

const OPERATION: &str = "renewing";

/// The entries of one session, each with its place in the batch.
type Part = Vec<(usize, Renewal)>;

pub(crate) async fn renew(shared: &Shared, entries: Vec<Renewal>, answers: &RenewalAnswers) {
    let mut parts: HashMap<usize, (Arc<Session>, Part)> = HashMap::new();
    for (index, entry) in entries.into_iter().enumerate() {
        match shared.session_of(entry.attempt) {
            None => answers.send(index, Renewed::Gone(LossReason::Evicted)),
            Some(session) => parts
                .entry(Arc::as_ptr(&session).addr())
                .or_insert_with(|| (session, Vec::new()))
                .1
                .push((index, entry)),
        }
    }
    // The sessions are renewed side by side, so that one that is cut off delays no other.
    let mut running = JoinSet::new();
    for (session, part) in parts.into_values() {
        let answers = answers.clone();
        running.spawn(async move {
            for (index, answer) in renew_part(&session, part).await {
                answers.send(index, answer);
            }
        });
    }
    while running.join_next().await.is_some() {}
}

async fn renew_part(session: &Arc<Session>, part: Part) -> Vec<(usize, Renewed)> {
    let clock = &*session.config.context.clock;
    // Many requests may come before a proof, so this is no time limit of one request. The core drops
    // the call when no answer can prove anything any more.
    let limit = session.config.now() + session.ttl;
    session.touch();
    let connection = match session.connection(OPERATION, limit).await {
        Ok(connection) => connection,
        Err(error) => return unproved(session, part, &error),
    };
    session.watch_overlooked(&connection, part.iter().map(|(_, entry)| entry.attempt));
    let mut for_permits: HashMap<Arc<str>, Vec<AttemptId>> = HashMap::new();
    for (_, entry) in &part {
        match (entry.token, entry.mode) {
            (Some(_), Mode::Permits { .. }) => session.write_mark(&connection, entry.attempt),
            (Some(_), _) => {}
            (None, Mode::Permits { .. }) => {
                let attempts = session.attempts();
                if let Some(known) = attempts.get(entry.attempt) {
                    let lock = Arc::clone(&known.lock);
                    for_permits.entry(lock).or_default().push(entry.attempt);
                }
            }
            (None, _) => check_predecessor(session, &connection, entry.attempt),
        }
    }
    for (lock, attempts) in for_permits {
        check_queue(session, &connection, lock, attempts);
    }
    let proof = async {
        if !session.wait_checked(&connection).await {
            return None;
        }
        let attempts = part.iter().map(|(_, entry)| entry.attempt);
        let reported = session.attempts().newest_report(attempts);
        session.wait_proof(reported, &connection).await
    };
    let proof = until(clock, limit, proof).await.flatten();
    let Some(from) = proof else {
        return unproved(session, part, &unanswered(OPERATION));
    };
    let mut attempts = session.attempts();
    let answer = |(index, entry): (usize, Renewal)| {
        let (attempt, number) = (entry.attempt, connection.number);
        let answer = attempts.answer(attempt, entry.token, session.ttl, from, number);
        (index, answer)
    };
    part.into_iter().map(answer).collect()
}

/// The answers if nothing was proved.
fn unproved(session: &Session, part: Part, error: &Error) -> Vec<(usize, Renewed)> {
    let attempts = session.attempts();
    part.into_iter()
        .map(|(index, entry)| (index, attempts.answer_unproved(entry.attempt, error)))
        .collect()
}

/// Asks whether the node in front of a waiter is still there, and looks up the waiter's position if
/// it is not. The servers do not tell a client about the end of a node that it may no longer read,
/// and this request needs no right. The report does not wait for the answer: a grant follows as an
/// event.
fn check_predecessor(session: &Arc<Session>, connection: &Arc<Connection>, attempt: AttemptId) {
    let node = {
        let attempts = session.attempts();
        match attempts.get(attempt).map(|entry| &entry.position) {
            Some(Position::Waiting(predecessor)) => {
                let nearest = predecessor.watches.first();
                nearest.map(|watch| Arc::clone(&watch.node))
            }
            Some(Position::Unknown) => None,
            Some(Position::Admitted | Position::Gone(_)) | None => return,
        }
    };
    let Some(node) = node else {
        // Its node may be known although its position is not: a look-up failed, or is under way.
        if session.attempts().node(attempt).is_some() {
            session.locate_later(connection, attempt);
        }
        return;
    };
    let (session, weak) = (Arc::clone(session), Arc::downgrade(connection));
    connection.spawn(async move {
        let Some(connection) = weak.upgrade() else {
            return;
        };
        if is_gone(&connection, &node).await == Ok(true) {
            session.locate_later(&connection, attempt);
        }
    });
}

/// Lists the queue of a lock once for all its waiters for permits, and looks up the positions of those that
/// are no longer there, hold the lock, or are the first waiter. So a mark that is missing, because the
/// process that has to write it stands still, delays none of them for longer than until its next report.
fn check_queue(
    session: &Arc<Session>,
    connection: &Arc<Connection>,
    lock: Arc<str>,
    waiters: Vec<AttemptId>,
) {
    let (session, weak) = (Arc::clone(session), Arc::downgrade(connection));
    connection.spawn(async move {
        let Some(connection) = weak.upgrade() else {
            return;
        };
        let Ok((children, _)) = list(&connection, &lock).await else {
            return;
        };
        let ordered = in_order(&children);
        let holders = count_holders(ordered.iter().copied());
        let waiting: HashSet<&str> = ordered.into_iter().skip(holders + 1).collect();
        for attempt in waiters {
            let node = session.attempts().node(attempt);
            if node.is_some_and(|node| !waiting.contains(child_of(&node))) {
                session.locate_later(&connection, attempt);
            }
        }
    });
}

async fn is_gone(connection: &Connection, node: &str) -> Result<bool, RequestError> {
    let operation = connection.operation().await?;
    let stat = answer(operation.client.check_stat(node)).await?;
    Ok(stat.is_none())
}
