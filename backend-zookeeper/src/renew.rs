//! Renewing grants and reporting waiters. The heartbeats of a session serve all its attempts; a
//! renewal reports what they have proved.

use std::{collections::HashMap, sync::Arc};

use tenure_core::{
    backend::RenewalAnswers,
    error::Error,
    id::AttemptId,
    loss::LossReason,
    request::{Renewal, Renewed},
};
use tokio::task::JoinSet;

use crate::{
    error::{RequestError, unanswered},
    queue::Position,
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
    for (_, entry) in &part {
        if entry.token.is_none() {
            check_predecessor(session, &connection, entry.attempt);
        }
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
            Some(Position::Waiting(predecessor)) => Some(Arc::clone(&predecessor.next.node)),
            Some(Position::Unknown) => None,
            Some(Position::First | Position::Gone(_)) | None => return,
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

async fn is_gone(connection: &Connection, node: &str) -> Result<bool, RequestError> {
    let operation = connection.operation().await?;
    let stat = answer(operation.client.check_stat(node)).await?;
    Ok(stat.is_none())
}
