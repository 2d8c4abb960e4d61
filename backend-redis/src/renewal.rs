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
    backend::{Shared, grouped, reported},
    error::{answered, from_fault, unexpected},
    keys::LockKeys,
    reply::Reply,
    scripts::Scripts,
    transport::{CallError, CallResult, ScriptCall},
};

const OPERATION: &str = "renewing";

/// How many grants one request renews.
const MAX_GRANTS_PER_CALL: usize = 100;

/// How many waiters one request reports: each costs the server several times as much as a grant.
const MAX_REPORTS_PER_CALL: usize = 25;

/// What has become of a batch so far.
struct Batch<'a> {
    core: &'a Shared,
    entries: &'a [Renewal],
    keys: Vec<Option<LockKeys>>,
    from: Instant,
    outcomes: Vec<Option<Renewed>>,
    /// Groups whose keys are in two places, as when a slot of a cluster moves. The keys of a single
    /// entry may be in one.
    parted: Vec<Vec<usize>>,
    /// Grants that the short way did not find.
    doubtful: Vec<usize>,
    /// Grants that too few replicas have, to be undone.
    short: Vec<usize>,
    /// Whether answers are told as they come, because others may take longer.
    split: bool,
}

/// Renews grants and reports waiters: an answer for each, in their order.
pub(crate) async fn renew(core: &Shared, entries: &[Renewal]) -> Vec<Renewed> {
    let mut batch = Batch {
        core,
        entries,
        keys: Vec::with_capacity(entries.len()),
        from: core.now(),
        outcomes: Vec::with_capacity(entries.len()),
        parted: Vec::new(),
        doubtful: Vec::new(),
        short: Vec::new(),
        split: false,
    };
    for entry in entries {
        let keys = core.lock(&entry.name).and_then(|keys| {
            // A report may grant; a grant that is there may be renewed.
            let closed = entry.token.is_none().then(|| core.closed(OPERATION, &keys));
            closed.flatten().map_or(Ok(keys), Err)
        });
        let (keys, outcome) = match keys {
            Ok(keys) => (Some(keys), None),
            Err(error) => (None, Some(Renewed::Unknown(error))),
        };
        batch.keys.push(keys);
        batch.outcomes.push(outcome);
    }
    let holders = batch.groups(MAX_GRANTS_PER_CALL, |entry| entry.token.is_some());
    let waiters = batch.groups(MAX_REPORTS_PER_CALL, |entry| entry.token.is_none());
    batch.split = holders.len() + waiters.len() > 1;
    batch.send(&holders, &waiters).await;
    batch.one_by_one().await;
    if !batch.doubtful.is_empty() {
        let mut doubtful = std::mem::take(&mut batch.doubtful);
        doubtful.retain(|&index| !batch.is_closed(index));
        let groups = batch.grouped(doubtful.into_iter(), MAX_REPORTS_PER_CALL);
        batch.again();
        batch.send(&[], &groups).await;
        batch.one_by_one().await;
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
    /// What is sent now counts only from now, and others have waited for long enough.
    fn again(&mut self) {
        self.split = true;
        self.from = self.core.now();
    }

    /// Whether the queue may not be asked of this one, because asking may grant; then so is said.
    fn is_closed(&mut self, index: usize) -> bool {
        let keys = self.keys[index].as_ref();
        let closed = keys.and_then(|keys| self.core.closed(OPERATION, keys));
        let is_closed = closed.is_some();
        if let Some(error) = closed {
            self.outcomes[index] = Some(Renewed::Unknown(error));
        }
        is_closed
    }

    /// Renews the grants of some groups, and reports the entries of others.
    async fn send(&mut self, holders: &[Vec<usize>], waiters: &[Vec<usize>]) {
        let mut calls: Vec<_> = holders.iter().map(|group| self.renewing(group)).collect();
        calls.extend(waiters.iter().map(|group| self.reporting(group)));
        let core = self.core;
        core.grant_all(calls, &mut |index, answer, missing| {
            if let Some(group) = holders.get(index) {
                self.renewed(group, answer, missing);
            } else if let Some(group) = waiters.get(index - holders.len()) {
                self.reported(group, answer, missing);
            }
        })
        .await;
    }

    /// Asks of each entry by itself whose group is parted.
    async fn one_by_one(&mut self) {
        let parted = std::mem::take(&mut self.parted);
        if parted.is_empty() {
            return;
        }
        let is_holder = |group: &Vec<usize>| self.entries[group[0]].token.is_some();
        let single = parted.into_iter().flatten().map(|index| vec![index]);
        let (holders, waiters): (Vec<_>, Vec<_>) = single.partition(is_holder);
        self.again();
        self.send(&holders, &waiters).await;
    }

    /// Whether the group's keys are in two places; then it is asked of each entry by itself.
    fn is_parted(&mut self, group: &[usize], answer: &CallResult) -> bool {
        let refused = matches!(
            answer,
            Err(CallError::NotExecuted { code: Some(code), .. }) if code == "TRYAGAIN"
        );
        let parted = refused && group.len() > 1;
        if parted {
            self.parted.push(group.to_vec());
        }
        parted
    }

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

    fn renewing(&self, group: &[usize]) -> ScriptCall {
        let script = &Scripts::get().renew;
        let mut call = ScriptCall::new(script, 3 * group.len(), 128 * group.len());
        for (lock, _) in self.named(group) {
            call.key(&lock.holder);
        }
        for (_, entry) in self.named(group) {
            call.arg(entry.attempt);
            match entry.token {
                Some(token) => call.arg(token),
                None => call.arg(""),
            }
        }
        call
    }

    fn reporting(&self, group: &[usize]) -> ScriptCall {
        let script = &Scripts::get().report;
        let mut call = ScriptCall::new(script, 1 + 5 * group.len(), 256 * group.len());
        for (lock, _) in self.named(group) {
            lock.all(&mut call);
        }
        call.arg(self.core.floor());
        for (_, entry) in self.named(group) {
            call.arg(entry.attempt);
        }
        call
    }

    /// Those of a group whose locks have keys, with them.
    fn named(&self, group: &[usize]) -> impl Iterator<Item = (&LockKeys, &Renewal)> {
        let named = |&index: &usize| Some((self.keys[index].as_ref()?, &self.entries[index]));
        group.iter().filter_map(named)
    }

    fn renewed(&mut self, group: &[usize], answer: CallResult, missing: u32) {
        if self.is_parted(group, &answer) {
            return;
        }
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

    fn reported(&mut self, group: &[usize], answer: CallResult, missing: u32) {
        if self.is_parted(group, &answer) {
            return;
        }
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
