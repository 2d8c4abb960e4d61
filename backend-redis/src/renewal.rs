//! Renewals and reports, in batches.
//!
//! A grant is renewed by a script that touches its holder's key alone, a hundred in one request. Of
//! those that are not there any more, and of all waiters, the queue is asked.

use redis::Value;
use tenure_core::{
    backend::BackendEvent,
    clock::Instant,
    error::Error,
    request::{Remove, Renewal, Renewed},
};

use crate::{
    backend::{Core, grouped, reported},
    error::{answered, from_fault, unexpected},
    keys::LockKeys,
    link::{Answer, Call},
    reply::Reply,
    scripts::Scripts,
};

const OPERATION: &str = "renewing";

/// How many grants one request renews.
const GRANTS: usize = 100;

/// How many waiters one request reports: each costs the server several times as much as a grant.
const REPORTS: usize = 25;

/// What has become of a batch so far.
struct Batch<'a> {
    core: &'a Core,
    entries: &'a [Renewal],
    keys: Vec<Option<LockKeys>>,
    from: Instant,
    outcomes: Vec<Option<Renewed>>,
    /// Grants that the short way did not find.
    doubtful: Vec<usize>,
    /// Grants that too few replicas have, to be undone.
    short: Vec<usize>,
    /// Whether answers are told as they come, because others may take longer.
    split: bool,
}

/// Renews grants and reports waiters: an answer for each, in their order.
pub(crate) async fn renew(core: &Core, entries: &[Renewal]) -> Vec<Renewed> {
    let mut batch = Batch {
        core,
        entries,
        keys: Vec::with_capacity(entries.len()),
        from: core.now(),
        outcomes: Vec::with_capacity(entries.len()),
        doubtful: Vec::new(),
        short: Vec::new(),
        split: false,
    };
    for entry in entries {
        let (keys, outcome) = match core.lock(&entry.name) {
            Ok(keys) => (Some(keys), None),
            Err(error) => (None, Some(Renewed::Unknown(error))),
        };
        batch.keys.push(keys);
        batch.outcomes.push(outcome);
    }
    let holders = batch.groups(GRANTS, |entry| entry.token.is_some());
    let waiters = batch.groups(REPORTS, |entry| entry.token.is_none());
    batch.split = holders.len() + waiters.len() > 1;
    let mut calls: Vec<_> = holders.iter().map(|group| batch.renewing(group)).collect();
    calls.extend(waiters.iter().map(|group| batch.reporting(group)));
    core.grant_all(
        calls,
        &mut |index, answer, missing| match holders.get(index) {
            Some(group) => batch.renewed(group, answer, missing),
            None => {
                if let Some(group) = waiters.get(index - holders.len()) {
                    batch.reported(group, answer, missing);
                }
            }
        },
    )
    .await;
    if !batch.doubtful.is_empty() {
        batch.split = true;
        // Sent only now, and so counts only from now.
        batch.from = core.now();
        let doubtful = std::mem::take(&mut batch.doubtful);
        let groups = batch.grouped(doubtful.into_iter(), REPORTS);
        let calls = groups.iter().map(|group| batch.reporting(group)).collect();
        core.grant_all(calls, &mut |index, answer, missing| {
            if let Some(group) = groups.get(index) {
                batch.reported(group, answer, missing);
            }
        })
        .await;
    }
    batch.undo().await;
    let outcomes = std::mem::take(&mut batch.outcomes);
    outcomes
        .into_iter()
        .map(|outcome| {
            outcome.unwrap_or_else(|| Renewed::Unknown(unexpected(OPERATION, &Value::Nil)))
        })
        .collect()
}

impl Batch<'_> {
    fn groups(&self, most: usize, which: impl Fn(&Renewal) -> bool) -> Vec<Vec<usize>> {
        let chosen = (0..self.entries.len())
            .filter(|&index| self.keys[index].is_some() && which(&self.entries[index]));
        self.grouped(chosen, most)
    }

    fn grouped(&self, chosen: impl Iterator<Item = usize>, most: usize) -> Vec<Vec<usize>> {
        let slots = chosen.filter_map(|index| {
            let keys = self.keys[index].as_ref()?;
            Some((index, self.core.link.slot(&keys.holder)))
        });
        grouped(slots, most)
    }

    fn renewing(&self, group: &[usize]) -> Call {
        let mut keys = Vec::with_capacity(group.len());
        let mut args = Vec::with_capacity(2 * group.len());
        for &index in group {
            let (Some(lock), entry) = (&self.keys[index], &self.entries[index]) else {
                continue;
            };
            keys.push(lock.holder.clone());
            args.push(entry.attempt.to_string());
            args.push(
                entry
                    .token
                    .map_or_else(String::new, |token| token.to_string()),
            );
        }
        let script = &Scripts::get().renew;
        Call { script, keys, args }
    }

    fn reporting(&self, group: &[usize]) -> Call {
        let mut keys = Vec::with_capacity(4 * group.len());
        let mut args = Vec::with_capacity(1 + group.len());
        args.push(self.core.floor());
        for &index in group {
            let Some(lock) = &self.keys[index] else {
                continue;
            };
            keys.extend([
                lock.holder.clone(),
                lock.fence(),
                lock.queue(),
                lock.entries(),
            ]);
            args.push(self.entries[index].attempt.to_string());
        }
        let script = &Scripts::get().report;
        Call { script, keys, args }
    }

    fn renewed(&mut self, group: &[usize], answer: Answer, missing: u32) {
        let reply = answer
            .map_err(|fault| from_fault(OPERATION, fault))
            .and_then(|value| Reply::new(OPERATION, value));
        let mut reply = match reply {
            Ok(reply) => reply,
            Err(error) => return self.fail(group, &error),
        };
        for &index in group {
            match reply.number() {
                Ok(1) if missing == 0 => self.settle(index, Renewed::Proved { from: self.from }),
                Ok(1) => {
                    let error = self.core.too_few_replicas(OPERATION, missing);
                    self.settle(index, Renewed::Unknown(error));
                }
                Ok(_) => self.doubtful.push(index),
                Err(error) => self.settle(index, Renewed::Unknown(error)),
            }
        }
    }

    fn reported(&mut self, group: &[usize], answer: Answer, missing: u32) {
        let reply = answer
            .map_err(|fault| from_fault(OPERATION, fault))
            .and_then(|value| Reply::new(OPERATION, value));
        let mut answers = match reply {
            Ok(reply) => reply.rest(),
            Err(error) => return self.fail(group, &error),
        };
        for &index in group {
            let attempt = self.entries[index].attempt;
            let outcome = match answers.next() {
                Some(Value::ServerError(error)) => Err(answered(
                    OPERATION,
                    error.code(),
                    error.details().unwrap_or_default(),
                )),
                Some(value) => reported(OPERATION, attempt, self.from, value),
                None => Err(unexpected(OPERATION, &Value::Nil)),
            };
            match outcome {
                Ok(Renewed::Granted(_)) if missing > 0 => self.granted_short(index, missing),
                Ok(outcome) => self.settle(index, outcome),
                Err(error) => self.settle(index, Renewed::Unknown(error)),
            }
        }
    }

    fn granted_short(&mut self, index: usize, missing: u32) {
        if self.entries[index].token.is_some() {
            let error = self.core.too_few_replicas(OPERATION, missing);
            self.settle(index, Renewed::Unknown(error));
        } else {
            self.short.push(index);
        }
    }

    /// A waiter whose turn has come, but whose grant a failover could lose, gives it back and begins
    /// anew.
    async fn undo(&mut self) {
        for index in std::mem::take(&mut self.short) {
            let entry = &self.entries[index];
            let removal = Remove::new(entry.name.clone(), entry.attempt, entry.ttl, true);
            let outcome = match self.core.remove(&removal).await {
                Ok(_) => Renewed::Gone(tenure_core::loss::LossReason::Evicted),
                Err(error) => Renewed::Unknown(error),
            };
            self.settle(index, outcome);
        }
    }

    fn fail(&mut self, group: &[usize], error: &Error) {
        for &index in group {
            self.settle(index, Renewed::Unknown(error.clone()));
        }
    }

    /// One entry's outcome. It is told at once if others may take longer: a server of a cluster that
    /// is down must not hold up what the others have said.
    fn settle(&mut self, index: usize, outcome: Renewed) {
        let attempt = self.entries[index].attempt;
        if self.split {
            let events = &self.core.context.events;
            match &outcome {
                Renewed::Proved { from } => events.send(BackendEvent::Proved {
                    attempt,
                    from: *from,
                }),
                Renewed::Granted(grant) => events.send(BackendEvent::Granted(grant.clone())),
                Renewed::Gone(reason) => events.send(BackendEvent::Lost {
                    attempt,
                    reason: *reason,
                }),
                _ => {}
            }
        }
        self.outcomes[index] = Some(outcome);
    }
}
