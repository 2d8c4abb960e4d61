//! The answers of the queue machine, in the form of the scripts' replies.

use std::{collections::BTreeMap, time::Duration};

use redis::Value;
use tenure_core::{
    backend::BackendEvent,
    id::{AttemptId, ClientId},
    queue::{Answer, Event, Notice, NoticeKind, Now, Queue},
    token::FencingToken,
};

use super::{
    Op, attempt, client, owner,
    server::{EntryState, LockState},
    ttl,
};

pub(super) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap()
}

pub(super) fn model_state(queue: &Queue, now: u64) -> LockState {
    let stored = serde_json::to_value(queue).unwrap();
    let nanos = |value: &serde_json::Value| value.as_u64().unwrap() / 1000;
    let id = |value: &serde_json::Value| AttemptId::parse(value.as_str().unwrap()).unwrap();
    let fenced = stored["fenced"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|fenced| {
            let since = nanos(&fenced["since"]["at"]);
            (id(&fenced["attempt"]), (since, nanos(&fenced["ttl"])))
        });
    LockState {
        last_token: queue.last_token().get(),
        entries: queue
            .entries()
            .map(|entry| EntryState {
                attempt: entry.attempt,
                client: entry.client.to_string(),
                owner: entry.owner.clone(),
                ttl: micros(entry.ttl),
                refreshed: micros(entry.refreshed.at),
                enqueued: entry.enqueued_at_us,
                grant: entry
                    .grant
                    .map(|grant| (grant.token.get(), grant.granted_at_us)),
                mode: entry.mode,
            })
            .collect(),
        fenced: fenced
            .filter(|(_, (since, life))| now < since + life)
            .collect(),
        ended: stored
            .get("ended")
            .filter(|ended| !ended.is_null())
            .map(|ended| {
                (
                    id(&ended["attempt"]),
                    ended["ending"].as_str().unwrap().to_owned(),
                )
            }),
    }
}

/// The scripts do not record that a grant was released, because the client that released it knows.
pub(super) fn forget_release(queue: &mut Queue, before: &Queue) {
    let mut stored = serde_json::to_value(&*queue).unwrap();
    if stored["ended"]["ending"] == "released" {
        let before = serde_json::to_value(before).unwrap();
        stored["ended"] = before.get("ended").cloned().unwrap_or_default();
        *queue = serde_json::from_value(stored).unwrap();
    }
}

pub(super) fn event(op: &Op, token: u64) -> Option<Event> {
    Some(match *op {
        Op::Enqueue(index, wait, mode) => Event::Enqueue {
            attempt: attempt(index),
            client: client(index),
            owner: owner(index),
            ttl: ttl(index),
            wait,
            mode,
        },
        Op::Renew(index, _) | Op::Report(index) => Event::Renew {
            attempt: attempt(index),
        },
        Op::Downgrade(index, _) => Event::Downgrade {
            attempt: attempt(index),
            token: FencingToken::new(token),
        },
        Op::Remove(index, fence) => Event::Remove {
            attempt: attempt(index),
            fence: fence.then(|| ttl(index)),
        },
        Op::Evict(_) => Event::Evict {
            token: FencingToken::new(token),
        },
        Op::Inspect => return None,
    })
}

/// Converts a script's reply to the form of the machine's answer: its kind, and the details that
/// the machine also returns.
pub(super) fn normalize_reply(op: &Op, value: &Value) -> (String, Vec<String>) {
    let parts = match value {
        Value::BulkString(word) => {
            let word = String::from_utf8(word.clone()).unwrap();
            return match word.parse::<u64>() {
                Ok(_) => ("granted".to_owned(), vec![word.clone(), word]),
                Err(_) => (word, Vec::new()),
            };
        }
        Value::Array(parts) => parts,
        other => panic!("{other:?}"),
    };
    let parts: Vec<_> = parts
        .iter()
        .map(|part| match part {
            Value::BulkString(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            Value::Int(number) => number.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    let holder = |record: &String| record.split(' ').nth(1).unwrap_or_default().to_owned();
    let more = match parts[0].as_str() {
        // A renewal does not report the floor.
        "granted" if matches!(op, Op::Renew(..)) => vec![parts[1].clone()],
        "granted" => vec![parts[1].clone(), parts.get(3).unwrap_or(&parts[1]).clone()],
        "gone" => vec![parts[1].clone()],
        // The number of entries ahead, the time after which to ask again, and the holder.
        "waiting" => vec![parts[3].clone(), parts[4].clone(), holder(&parts[5])],
        "busy" => vec![holder(&parts[2])],
        _ => Vec::new(),
    };
    (parts[0].clone(), more)
}

pub(super) fn expected_reply(
    op: &Op,
    answer: Answer,
    recheck: Option<Duration>,
    queue: &Queue,
) -> (String, Vec<String>) {
    let holder = || {
        queue
            .holder()
            .map_or_else(String::new, |entry| entry.attempt.to_string())
    };
    let (kind, more) = match answer {
        Answer::Busy => ("busy", vec![holder()]),
        Answer::Evicted => ("evicted", vec![]),
        Answer::Gone(_) if matches!(op, Op::Remove(..)) => ("absent", vec![]),
        Answer::Gone(reason) => ("gone", vec![reason.as_str().to_owned()]),
        Answer::Granted { .. } if matches!(op, Op::Downgrade(..)) => ("shared", vec![]),
        Answer::Granted { token, .. } if matches!(op, Op::Renew(..)) => {
            ("granted", vec![token.to_string()])
        }
        Answer::Granted { token, floor } => ("granted", vec![token.to_string(), floor.to_string()]),
        Answer::Nothing if matches!(op, Op::Downgrade(..)) => {
            ("gone", vec!["displaced".to_owned()])
        }
        Answer::Nothing => ("not held", vec![]),
        Answer::RemovedHolder => ("holder", vec![]),
        Answer::RemovedWaiter => ("waiter", vec![]),
        Answer::Waiting { ahead } => {
            let within = micros(recheck.expect("another entry is ahead"));
            let more = vec![ahead.to_string(), within.to_string(), holder()];
            ("waiting", more)
        }
        other => panic!("{other:?}"),
    };
    (kind.to_owned(), more)
}

/// The attempts that an inspection shows: the joint holders and the waiters.
pub(super) fn shown_attempts(value: &Value) -> (Vec<String>, Vec<String>) {
    let Value::Array(parts) = value else {
        panic!("{value:?}")
    };
    let texts = |part: &Value, pick: &dyn Fn(&Value) -> String| match part {
        Value::Array(items) => items.iter().map(pick).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    let waiter = |item: &Value| match item {
        Value::Array(fields) => format!("{} {}", text(&fields[0]), text(&fields[3])),
        other => panic!("{other:?}"),
    };
    let holder = |item: &Value| {
        let record = text(item);
        let words: Vec<_> = record.split(' ').collect();
        format!("{} {}", words[1], words[9])
    };
    (texts(&parts[5], &holder), texts(&parts[4], &waiter))
}

/// The attempts that the machine shows: the joint holders and the waiters.
pub(super) fn expected_attempts(queue: &Queue, now: &Now) -> (Vec<String>, Vec<String>) {
    let live = queue.entries().filter(|entry| !entry.has_lapsed(now));
    let (holders, waiters): (Vec<_>, Vec<_>) = live.partition(|entry| entry.grant.is_some());
    let show = |entry: &tenure_core::queue::Entry| format!("{} {}", entry.attempt, entry.mode);
    let holders = holders
        .into_iter()
        .filter(|entry| !entry.mode.is_exclusive());
    (
        holders.map(show).collect(),
        waiters.into_iter().map(show).collect(),
    )
}

/// The messages that each client received, in order.
pub(super) type Messages = Vec<(ClientId, Vec<BackendEvent>)>;

pub(super) fn messages_match(received: &Messages, notices: &[Notice]) -> bool {
    let mut by_client: BTreeMap<ClientId, Vec<&Notice>> = BTreeMap::new();
    for notice in notices {
        by_client.entry(notice.client).or_default().push(notice);
    }
    let mut events: BTreeMap<ClientId, Vec<&BackendEvent>> = BTreeMap::new();
    for (client, message) in received {
        events.entry(*client).or_default().extend(message);
    }
    // A client receives at most one message about grants and one about losses, of what lapsed before
    // the operation and of the operation itself.
    let is_few = |client: &ClientId| received.iter().filter(|(to, _)| to == client).count() <= 4;
    by_client.len() == events.len()
        && by_client.iter().all(|(client, notices)| {
            let Some(events) = events.get(client) else {
                return false;
            };
            is_few(client)
                && events.len() == notices.len()
                && events
                    .iter()
                    .zip(notices)
                    .all(|(event, notice)| is_same(event, notice))
        })
}

fn is_same(received: &BackendEvent, notice: &Notice) -> bool {
    match (received, notice.kind) {
        (BackendEvent::Granted(grant), NoticeKind::Granted { token, floor, ttl }) => {
            (grant.attempt, grant.token, grant.floor, grant.ttl)
                == (notice.attempt, token, floor, ttl)
        }
        (BackendEvent::Lost { attempt, reason }, NoticeKind::Lost(expected_reason)) => {
            (*attempt, *reason) == (notice.attempt, expected_reason)
        }
        _ => false,
    }
}
