//! Renews grants and reports waiters, in batches.
//!
//! The renew script touches only the holder key of each lock, for up to a hundred grants in one
//! request. The report script reads and updates the whole queue; it handles all waiters and the
//! grants that the renew script did not find.

use redis::Value;
use tenure_core::{
    backend::RenewalAnswers,
    clock::Instant,
    request::{Remove, Renewal, Renewed},
};

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
    /// Renews grants.
    Renew,
    /// Reports waiters, and grants that the renew script did not find.
    Report,
}

/// The entries of one call, by their index in the batch.
type Group = (Kind, Vec<usize>);

/// The state of one batch.
struct RenewBatch<'a> {
    shared: &'a Shared,
    entries: &'a [Renewal],
    keys: Vec<Option<LockKeys>>,
    from: Instant,
    answers: RenewalAnswers,
    /// Entries of groups whose keys are on two nodes because a slot of the cluster is moving. The
    /// keys of each single entry may still be on one node.
    split_groups: Vec<Group>,
    /// Grants that the renew script did not find.
    not_renewed: Vec<usize>,
    /// Grants that too few replicas have acknowledged. They are undone.
    under_replicated: Vec<usize>,
}

/// Renews grants and reports waiters.
pub(crate) async fn renew(shared: &Shared, entries: &[Renewal], answers: RenewalAnswers) {
    let mut batch = RenewBatch {
        shared,
        entries,
        keys: Vec::with_capacity(entries.len()),
        from: shared.now(),
        answers,
        split_groups: Vec::new(),
        not_renewed: Vec::new(),
        under_replicated: Vec::new(),
    };
    for (index, entry) in entries.iter().enumerate() {
        match shared.lock_keys(&entry.name) {
            Ok(keys) => batch.keys.push(Some(keys)),
            Err(error) => {
                batch.keys.push(None);
                batch.answers.send(index, Renewed::Unknown(error));
            }
        }
    }
    let known = (0..entries.len()).filter(|&index| batch.keys[index].is_some());
    let (holders, waiters) = known.partition(|&index| entries[index].token.is_some());
    let mut groups = batch.groups(Kind::Renew, holders);
    groups.extend(batch.groups(Kind::Report, waiters));
    batch.send(&groups).await;
    if !batch.not_renewed.is_empty() {
        let not_renewed = std::mem::take(&mut batch.not_renewed);
        let groups = batch.groups(Kind::Report, not_renewed);
        batch.start_round();
        batch.send(&groups).await;
    }
    batch.undo_under_replicated().await;
}

impl RenewBatch<'_> {
    /// Starts another round of calls. Proofs now count from the new start time.
    fn start_round(&mut self) {
        self.from = self.shared.now();
    }

    /// Splits entries into groups of the same slot. A report may grant the lock, so it is refused
    /// while grants are blocked. A renewal grants nothing.
    fn groups(&self, kind: Kind, mut indices: Vec<usize>) -> Vec<Group> {
        let max_len = match kind {
            Kind::Renew => MAX_GRANTS_PER_CALL,
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

    /// Sends one call for each group. Groups whose keys are on two nodes are then sent again, each
    /// entry in a call of its own.
    async fn send(&mut self, groups: &[Group]) {
        self.send_once(groups).await;
        let split_groups = std::mem::take(&mut self.split_groups);
        if !split_groups.is_empty() {
            let single = split_groups.into_iter().flat_map(|(kind, indices)| {
                indices.into_iter().map(move |index| (kind, vec![index]))
            });
            self.start_round();
            self.send_once(&single.collect::<Vec<_>>()).await;
        }
    }

    async fn send_once(&mut self, groups: &[Group]) {
        let calls = groups.iter().map(|(kind, group)| match kind {
            Kind::Renew => self.renew_call(group),
            Kind::Report => self.report_call(group),
        });
        let (calls, shared) = (calls.collect(), self.shared);
        shared
            .call_granting(calls, &mut |index, answer, missing_acks| {
                self.on_answer(&groups[index], answer, missing_acks);
            })
            .await;
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

    fn on_answer(&mut self, (kind, group): &Group, answer: CallResult, missing_acks: u32) {
        let is_split = matches!(
            &answer,
            Err(CallError::NotExecuted { code: Some(code), .. }) if code == "TRYAGAIN"
        );
        if is_split && group.len() > 1 {
            return self.split_groups.push((*kind, group.clone()));
        }
        let reply = answer
            .map_err(|error| from_call_error(OPERATION, error))
            .and_then(|value| Reply::new(OPERATION, value));
        match (reply, kind) {
            (Ok(reply), Kind::Renew) => self.on_renewed(group, reply, missing_acks),
            (Ok(reply), Kind::Report) => self.on_reported(group, reply, missing_acks),
            (Err(error), _) => {
                for &index in group {
                    self.answers.send(index, Renewed::Unknown(error.clone()));
                }
            }
        }
    }

    fn on_renewed(&mut self, group: &[usize], mut reply: Reply, missing_acks: u32) {
        for &index in group {
            match reply.number() {
                Ok(1) if missing_acks == 0 => self
                    .answers
                    .send(index, Renewed::Proved { from: self.from }),
                Ok(1) => {
                    let error = self.shared.too_few_replicas(OPERATION, missing_acks);
                    self.answers.send(index, Renewed::Unknown(error));
                }
                Ok(_) => self.not_renewed.push(index),
                Err(error) => self.answers.send(index, Renewed::Unknown(error)),
            }
        }
    }

    fn on_reported(&mut self, group: &[usize], reply: Reply, missing_acks: u32) {
        let mut answers = reply.rest();
        for &index in group {
            let attempt = self.entries[index].attempt;
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
                    self.on_under_replicated_grant(index, missing_acks)
                }
                Ok(outcome) => self.answers.send(index, outcome),
                Err(error) => self.answers.send(index, Renewed::Unknown(error)),
            }
        }
    }

    fn on_under_replicated_grant(&mut self, index: usize, missing_acks: u32) {
        if self.entries[index].token.is_some() {
            let error = self.shared.too_few_replicas(OPERATION, missing_acks);
            self.answers.send(index, Renewed::Unknown(error));
        } else {
            self.under_replicated.push(index);
        }
    }

    /// Removes waiters that were granted a lock which a failover could lose. Each of them starts
    /// over with a new attempt.
    async fn undo_under_replicated(&mut self) {
        for index in std::mem::take(&mut self.under_replicated) {
            let entry = &self.entries[index];
            let removal = Remove::new(entry.name.clone(), entry.attempt, entry.ttl, true);
            let outcome = match remove::remove(self.shared, &removal).await {
                Ok(_) => Renewed::Gone(tenure_core::loss::LossReason::Evicted),
                Err(error) => Renewed::Unknown(error),
            };
            self.answers.send(index, outcome);
        }
    }
}
