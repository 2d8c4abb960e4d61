//! Renews grants and reports waiters, in batches.
//!
//! The renew script touches only the holder key of each lock, for up to a hundred grants in one
//! request. Grants of other modes, of which one lock may have many, have a script of their own. The report script reads and updates the whole queue; it handles all waiters and the
//! grants that the renew script did not find.

use std::{collections::HashMap, sync::Arc};

use redis::Value;
use tenure_core::{
    backend::RenewalAnswers,
    clock::Instant,
    loss::LossReason,
    request::{Remove, Renewal, Renewed},
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    error::{from_call_error, from_reply, unexpected_reply},
    keys::LockKeys,
    queue::parse_report,
    remove,
    scripts::{Reply, Scripts},
    shared::{Shared, group_by_slot},
    transport::{CallError, CallResult, ScriptCall},
};

const OPERATION: &str = "renewing";

/// The most grants that one call renews.
const MAX_GRANTS_PER_CALL: usize = 100;

/// The most entries that one call reports. A report costs the server several times as much as a
/// renewal.
const MAX_REPORTS_PER_CALL: usize = 25;

/// The script that handles a group of entries.
#[derive(Clone, Copy)]
enum Kind {
    /// Renews exclusive grants.
    Renew,
    /// Renews grants of the other modes.
    RenewJoint,
    /// Reports waiters, and grants that the renew script did not find.
    Report,
}

/// The entries of one call, by their index in the batch.
type Group = (Kind, Vec<usize>);

/// A step that the answer to a call requires. It does not wait for the other calls: one of them may
/// be to a node that does not answer.
enum FollowUp {
    Call(Group),
    /// Removes a waiter that was granted a lock which a failover could lose. The waiter starts over
    /// with a new attempt.
    Undo(usize),
}

/// The entries to renew and to report.
struct RenewBatch {
    shared: Arc<Shared>,
    entries: Vec<Renewal>,
    keys: Vec<Option<LockKeys>>,
    answers: RenewalAnswers,
}

/// Calls that are sent together.
struct Round {
    batch: Arc<RenewBatch>,
    /// When the round began. Its proofs count from then.
    from: Instant,
    follow_ups: mpsc::UnboundedSender<FollowUp>,
}

/// Renews grants and reports waiters.
pub(crate) async fn renew(shared: Arc<Shared>, entries: Vec<Renewal>, answers: RenewalAnswers) {
    let batch = Arc::new(RenewBatch::new(shared, entries, answers));
    let (sender, mut follow_ups) = mpsc::unbounded_channel();
    let mut running = JoinSet::new();
    running.spawn(Round::new(&batch, &sender).run(batch.first_groups()));
    let mut steps = Vec::new();
    while !running.is_empty() || !follow_ups.is_empty() {
        tokio::select! {
            _ = running.join_next(), if !running.is_empty() => {}
            _ = follow_ups.recv_many(&mut steps, usize::MAX) => {
                let mut groups = Vec::new();
                for step in steps.drain(..) {
                    match step {
                        FollowUp::Call((kind, mut indices)) => {
                            // No request follows the release of an entry (K3).
                            indices.retain(|&index| batch.answers.is_wanted(index));
                            if !indices.is_empty() {
                                groups.push((kind, indices));
                            }
                        }
                        FollowUp::Undo(index) => {
                            running.spawn(Arc::clone(&batch).undo(index));
                        }
                    }
                }
                if !groups.is_empty() {
                    running.spawn(Round::new(&batch, &sender).run(groups));
                }
            }
        }
    }
}

impl RenewBatch {
    fn new(shared: Arc<Shared>, entries: Vec<Renewal>, answers: RenewalAnswers) -> Self {
        let lock_keys = |(index, entry): (usize, &Renewal)| match shared.lock_keys(&entry.name) {
            Ok(keys) => Some(keys),
            Err(error) => {
                answers.send(index, Renewed::Unknown(error));
                None
            }
        };
        let keys = entries.iter().enumerate().map(lock_keys).collect();
        Self {
            shared,
            entries,
            keys,
            answers,
        }
    }

    fn first_groups(&self) -> Vec<Group> {
        let known = (0..self.entries.len()).filter(|&index| self.keys[index].is_some());
        let (holders, waiters): (Vec<_>, _) =
            known.partition(|&index| self.entries[index].token.is_some());
        let (exclusive, joint) = holders
            .into_iter()
            .partition(|&index| self.entries[index].mode.is_exclusive());
        let mut groups = self.groups(Kind::Renew, exclusive);
        groups.extend(self.groups(Kind::RenewJoint, joint));
        groups.extend(self.groups(Kind::Report, waiters));
        groups
    }

    /// Splits entries into groups of the same slot. A report may grant the lock, so it is refused
    /// while grants are blocked. A renewal grants nothing.
    fn groups(&self, kind: Kind, mut indices: Vec<usize>) -> Vec<Group> {
        let max_len = match kind {
            Kind::Renew | Kind::RenewJoint => MAX_GRANTS_PER_CALL,
            Kind::Report => {
                indices.retain(|&index| !self.refuse_while_blocked(index));
                MAX_REPORTS_PER_CALL
            }
        };
        let slots = indices.into_iter().filter_map(|index| {
            let keys = self.keys[index].as_ref()?;
            Some((index, self.shared.transport.slot(&keys.holder)))
        });
        let groups = group_by_slot(slots, max_len).into_iter();
        groups.map(|indices| (kind, indices)).collect()
    }

    /// Answers with an error if grants are blocked. Returns whether it did.
    fn refuse_while_blocked(&self, index: usize) -> bool {
        let keys = self.keys[index].as_ref();
        let blocked = keys.and_then(|keys| self.shared.restart_delay_error(OPERATION, keys));
        let is_blocked = blocked.is_some();
        if let Some(error) = blocked {
            self.answers.send(index, Renewed::Unknown(error));
        }
        is_blocked
    }

    fn renew_call(&self, group: &[usize]) -> ScriptCall {
        let mut call = ScriptCall::new(&Scripts::get().renew);
        for (lock, _) in self.group_entries(group) {
            call.key(&*lock.holder);
        }
        for (_, entry) in self.group_entries(group) {
            call.arg(entry.attempt);
            match entry.token {
                Some(token) => call.arg(token),
                None => call.arg(""),
            }
        }
        call
    }

    fn renew_joint_call(&self, group: &[usize]) -> ScriptCall {
        let mut call = ScriptCall::new(&Scripts::get().renew_joint);
        let mut numbers = HashMap::new();
        for (lock, entry) in self.group_entries(group) {
            let next = numbers.len() + 1;
            let number = *numbers.entry(&*lock.holder).or_insert_with(|| {
                lock.push_for_inspect(&mut call);
                next
            });
            call.arg(number);
            call.arg(entry.attempt);
            match entry.token {
                Some(token) => call.arg(token),
                None => call.arg(""),
            }
        }
        call
    }

    fn report_call(&self, group: &[usize]) -> ScriptCall {
        let mut call = ScriptCall::new(&Scripts::get().report);
        for (lock, _) in self.group_entries(group) {
            lock.push_all(&mut call);
        }
        call.arg(self.shared.token_floor());
        for (_, entry) in self.group_entries(group) {
            call.arg(entry.attempt);
        }
        call
    }

    /// The keys and entries of a group, without those that have no keys.
    fn group_entries(&self, group: &[usize]) -> impl Iterator<Item = (&LockKeys, &Renewal)> {
        let named = |&index: &usize| Some((self.keys[index].as_ref()?, &self.entries[index]));
        group.iter().filter_map(named)
    }

    async fn undo(self: Arc<Self>, index: usize) {
        let entry = &self.entries[index];
        let removal = Remove::new(entry.name.clone(), entry.attempt, entry.ttl, true);
        let outcome = match remove::remove(&self.shared, &removal).await {
            Ok(_) => Renewed::Gone(LossReason::Evicted),
            Err(error) => Renewed::Unknown(error),
        };
        self.answers.send(index, outcome);
    }
}

impl Round {
    fn new(batch: &Arc<RenewBatch>, follow_ups: &mpsc::UnboundedSender<FollowUp>) -> Self {
        Self {
            batch: Arc::clone(batch),
            from: batch.shared.now(),
            follow_ups: follow_ups.clone(),
        }
    }

    /// Sends one call for each group.
    async fn run(self, groups: Vec<Group>) {
        let calls = groups.iter().map(|(kind, group)| match kind {
            Kind::Renew => self.batch.renew_call(group),
            Kind::RenewJoint => self.batch.renew_joint_call(group),
            Kind::Report => self.batch.report_call(group),
        });
        let on_answer = &mut |index: usize, answer, missing_acks| {
            self.on_answer(&groups[index], answer, missing_acks);
        };
        let shared = &self.batch.shared;
        shared.call_granting(calls.collect(), on_answer).await;
    }

    fn answer(&self, index: usize, answer: Renewed) {
        self.batch.answers.send(index, answer);
    }

    fn follow_up(&self, step: FollowUp) {
        // On an error the whole batch has been given up.
        let _ = self.follow_ups.send(step);
    }

    fn on_answer(&self, (kind, group): &Group, answer: CallResult, missing_acks: u32) {
        let is_split = matches!(
            &answer,
            Err(CallError::NotExecuted { code: Some(code), .. }) if code == "TRYAGAIN"
        );
        if is_split && group.len() > 1 {
            // The keys of the group are on two nodes because a slot of the cluster is moving. The
            // keys of each single entry may still be on one node.
            for &index in group {
                self.follow_up(FollowUp::Call((*kind, vec![index])));
            }
            return;
        }
        let reply = answer
            .map_err(|error| from_call_error(OPERATION, error))
            .and_then(|value| Reply::new(OPERATION, value));
        match (reply, kind) {
            (Ok(reply), Kind::Renew | Kind::RenewJoint) => {
                self.on_renewed(group, reply, missing_acks)
            }
            (Ok(reply), Kind::Report) => self.on_reported(group, reply, missing_acks),
            (Err(error), _) => {
                for &index in group {
                    self.answer(index, Renewed::Unknown(error.clone()));
                }
            }
        }
    }

    fn on_renewed(&self, group: &[usize], mut reply: Reply, missing_acks: u32) {
        let mut not_found = Vec::new();
        for &index in group {
            match reply.number() {
                Ok(1) if missing_acks == 0 => {
                    self.answer(index, Renewed::Proved { from: self.from });
                }
                Ok(1) => self.on_under_replicated(index, missing_acks),
                Ok(_) => not_found.push(index),
                Err(error) => self.answer(index, Renewed::Unknown(error)),
            }
        }
        for group in self.batch.groups(Kind::Report, not_found) {
            self.follow_up(FollowUp::Call(group));
        }
    }

    fn on_reported(&self, group: &[usize], reply: Reply, missing_acks: u32) {
        let mut answers = reply.rest();
        for &index in group {
            let attempt = self.batch.entries[index].attempt;
            let outcome = match answers.next() {
                Some(Value::ServerError(error)) => Err(from_reply(
                    OPERATION,
                    error.code(),
                    error.details().unwrap_or_default(),
                )),
                Some(value) => parse_report(OPERATION, attempt, self.from, value),
                None => Err(unexpected_reply(OPERATION, &Value::Nil)),
            };
            match outcome {
                Ok(Renewed::Granted(_)) if missing_acks > 0 => {
                    if self.batch.entries[index].token.is_some() {
                        self.on_under_replicated(index, missing_acks);
                    } else {
                        self.follow_up(FollowUp::Undo(index));
                    }
                }
                Ok(outcome) => self.answer(index, outcome),
                Err(error) => self.answer(index, Renewed::Unknown(error)),
            }
        }
    }

    /// Answers that too few replicas have acknowledged a grant that the client already has.
    fn on_under_replicated(&self, index: usize, missing_acks: u32) {
        let error = self.batch.shared.too_few_replicas(OPERATION, missing_acks);
        self.answer(index, Renewed::Unknown(error));
    }
}
