//! Renewals and waiter reports, in batches: one keep-alive for each lease, and one transaction that
//! checks whether the entries still exist.
//!
//! A keep-alive proves the lease but not the entry, which an operator may have deleted. A batch
//! that is too large for one transaction relies on the watches of the holders' keys, once their
//! stream has shown that it is alive.

use std::{collections::HashMap, sync::Arc};

use etcd_client::KeyValue;
use tenure_core::{
    backend::RenewalAnswers,
    error::Error,
    loss::LossReason,
    mode::Mode,
    name::LockName,
    request::{Renewal, Renewed},
};
use tokio::task::JoinSet;

use crate::{
    attempts::{AttemptSnapshot, Awaits, Stage},
    error::RequestError,
    lease::{KeepAliveReply, Lease},
    position::{self, Entries, Placed},
    queue::{self, Position, altered_key, grant},
    record,
    shared::Shared,
    txn::{self, EntryCheck, MAX_COMPARES, PredecessorCheck, TxnReply},
};

const OPERATION: &str = "renewing";

/// How often a keep-alive is repeated after a leader change has made its reply worthless.
const MAX_KEEPALIVE_ATTEMPTS: usize = 3;

/// One entry of a batch.
struct RenewalItem {
    index: usize,
    renewal: Renewal,
    snapshot: AttemptSnapshot,
    check: EntryCheck,
}

impl RenewalItem {
    /// Whether the report has to read the queue. A waiter for permits may hold the lock although the
    /// entry that it watches is unchanged: the announcement of its predecessor may be lost.
    fn reads_queue(&self) -> bool {
        self.renewal.token.is_none() && matches!(self.snapshot.mode, Mode::Permits { .. })
    }
}

/// The entries under one lease.
struct LeaseBatch {
    shared: Arc<Shared>,
    lease: Arc<Lease>,
    items: Vec<RenewalItem>,
    /// Waiters whose predecessor is gone, and whether the lease was proved.
    moved: Vec<(RenewalItem, bool)>,
    answers: RenewalAnswers,
}

/// Renews grants and reports waiters. Sends one answer for each entry.
pub(crate) async fn renew(shared: &Arc<Shared>, entries: Vec<Renewal>, answers: &RenewalAnswers) {
    let mut batches: HashMap<i64, LeaseBatch> = HashMap::new();
    for (index, renewal) in entries.into_iter().enumerate() {
        match prepare(shared, &renewal) {
            Ok((snapshot, check, lease)) => batches
                .entry(lease.id)
                .or_insert_with(|| LeaseBatch::new(shared, lease, answers))
                .items
                .push(RenewalItem {
                    index,
                    renewal,
                    snapshot,
                    check,
                }),
            Err(reason) => answers.send(index, Renewed::Gone(reason)),
        }
    }
    let mut batches = batches.into_values();
    if batches.len() == 1
        && let Some(batch) = batches.next()
    {
        return batch.run().await;
    }
    // Concurrently: a slow lease delays no other.
    let mut tasks = JoinSet::new();
    for batch in batches {
        tasks.spawn(batch.run());
    }
    while tasks.join_next().await.is_some() {}
}

/// Returns the checks of the transaction for an entry, or the reason why the entry is lost.
fn prepare(
    shared: &Shared,
    renewal: &Renewal,
) -> Result<(AttemptSnapshot, EntryCheck, Arc<Lease>), LossReason> {
    let table = shared.attempts.lock();
    let entry = table.get(renewal.attempt).ok_or(LossReason::Evicted)?;
    let lease = entry
        .lease_ref
        .as_ref()
        .map(|lease_ref| Arc::clone(lease_ref.lease()));
    let lease = lease.ok_or(LossReason::Evicted)?;
    let floor = shared.context.token_floor.get();
    let token = record::token(floor, entry.revision);
    if entry.revision == 0 || renewal.token.is_some_and(|given| given != token) {
        return Err(LossReason::Displaced);
    }
    let predecessor = entry
        .predecessor
        .as_ref()
        .filter(|_| renewal.token.is_none());
    let check = EntryCheck {
        key: entry.key.to_string(),
        revision: entry.revision,
        put_at: entry.put_at,
        predecessor: predecessor
            .filter(|_| !matches!(entry.mode, Mode::Permits { .. }))
            .map(|predecessor| PredecessorCheck {
                key: predecessor.key.clone(),
                revision: predecessor.revision,
                put_at: match predecessor.awaits {
                    Awaits::Change { put_at, .. } => Some(put_at),
                    Awaits::Turn | Awaits::AnyRemoval(_) => None,
                },
            }),
    };
    let snapshot = AttemptSnapshot {
        name: entry.name.clone(),
        mode: entry.mode,
        key: Arc::clone(&entry.key),
        lease: None,
        revision: entry.revision,
        put_at: entry.put_at,
        stage: entry.stage,
        confirmed_stream: entry.confirmed_stream,
        needs_check: entry.needs_check,
    };
    drop(table);
    Ok((snapshot, check, lease))
}

impl LeaseBatch {
    fn new(shared: &Arc<Shared>, lease: Arc<Lease>, answers: &RenewalAnswers) -> Self {
        Self {
            shared: Arc::clone(shared),
            lease,
            items: Vec::new(),
            moved: Vec::new(),
            answers: answers.clone(),
        }
    }

    async fn run(mut self) {
        if let Err(error) = self.prove().await {
            let error = error.into_error(OPERATION);
            for item in std::mem::take(&mut self.items) {
                self.answer(&item, Renewed::Unknown(error.clone()));
            }
        }
        // Each of these takes a read, so the answers that are known go first (L5).
        let mut together: HashMap<LockName, Vec<(RenewalItem, bool)>> = HashMap::new();
        for (item, proved) in std::mem::take(&mut self.moved) {
            if item.reads_queue() {
                let of_name = together.entry(item.renewal.name.clone()).or_default();
                of_name.push((item, proved));
            } else if self.answers.is_wanted(item.index) {
                self.relocate(&item, proved).await;
            }
        }
        for (name, mut items) in together {
            items.retain(|(item, _)| self.answers.is_wanted(item.index));
            match &items[..] {
                [] => {}
                [(item, proved)] => self.relocate(item, *proved).await,
                _ => self.relocate_together(&name, &items).await,
            }
        }
    }

    /// Proves the lease and checks the entries. On failure, the outcome of each entry left in
    /// `items` is unknown.
    async fn prove(&mut self) -> Result<(), RequestError> {
        let mut progress = self
            .shared
            .watcher
            .request_progress(self.shared.endpoints.failover_timeout());
        let mut proof = self.keep_alive().await?;
        // Entries that the watches would not report come first.
        let stream_id = self.shared.watcher.stream_id();
        let watched = |item: &RenewalItem| {
            item.snapshot.confirmed_stream == stream_id
                && item.check.predecessor.is_none()
                && !item.reads_queue()
                && !item.snapshot.needs_check
        };
        self.items.sort_by_key(watched);
        let mut first = true;
        while !self.items.is_empty() {
            if !first && self.items.iter().all(watched) && progress.is_alive().await {
                break;
            }
            let chunk = self.next_chunk();
            let checks: Vec<EntryCheck> = chunk.iter().map(|item| item.check.clone()).collect();
            let check = txn::check_entries(&checks, &self.shared.absent_key);
            let reply = match self.shared.txn_read_only(check).await {
                Ok(reply) => reply,
                Err(error) => {
                    self.items.extend(chunk);
                    return Err(error);
                }
            };
            if first && let Some(unvalidated) = proof {
                proof = self.validate(unvalidated, &reply).await;
                if let Some(valid) = proof {
                    self.lease.prove(valid.sent_at);
                }
            }
            first = false;
            self.apply_reply(chunk, reply, proof.is_some());
            // No request follows the release of an entry (K3).
            let answers = &self.answers;
            self.items.retain(|item| answers.is_wanted(item.index));
        }
        for item in std::mem::take(&mut self.items) {
            let outcome = match proof {
                Some(_) => Renewed::Proved {
                    from: self.lease.proved_from(),
                },
                None => Renewed::Unknown(RequestError::no_reply().into_error(OPERATION)),
            };
            self.answer(&item, outcome);
        }
        Ok(())
    }

    /// Sends one keep-alive. Returns `None` if the store says that the lease does not exist; the
    /// entries then show the truth.
    async fn keep_alive(&self) -> Result<Option<KeepAliveReply>, RequestError> {
        let clock = &*self.shared.context.clock;
        match self.lease.keep_alive(&self.shared.endpoints, clock).await {
            Ok(proof) => Ok(Some(proof)),
            Err(RequestError::LeaseGone) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns a keep-alive that this reply makes valid, or a later keep-alive that is valid.
    async fn validate(
        &self,
        mut proof: KeepAliveReply,
        reply: &TxnReply,
    ) -> Option<KeepAliveReply> {
        let mut term = Some(reply.term);
        for _ in 0..MAX_KEEPALIVE_ATTEMPTS {
            if proof.is_valid(term) {
                return Some(proof);
            }
            proof = self.keep_alive().await.ok()??;
            let check = self
                .shared
                .txn_read_only(txn::check_entries(&[], &self.shared.absent_key));
            term = Some(check.await.ok()?.term);
        }
        None
    }

    /// The entries that fit into one transaction.
    fn next_chunk(&mut self) -> Vec<RenewalItem> {
        let mut compares = 0;
        let fits = |item: &&RenewalItem| {
            compares += item.check.compare_count();
            compares <= MAX_COMPARES
        };
        let count = self.items.iter().take_while(fits).count().max(1);
        let rest = self.items.split_off(count);
        std::mem::replace(&mut self.items, rest)
    }

    fn apply_reply(&mut self, chunk: Vec<RenewalItem>, mut reply: TxnReply, proved: bool) {
        if reply.succeeded {
            for item in chunk {
                self.on_intact(item, reply.revision, proved);
            }
            return;
        }
        for item in chunk {
            let own = reply.next_kv();
            let predecessor = item.check.predecessor.as_ref().map(|_| reply.next_kv());
            let own = match own {
                Ok(own) => own,
                Err(error) => {
                    self.answer(&item, Renewed::Unknown(error.into_error(OPERATION)));
                    continue;
                }
            };
            // A key that was deleted and put again has another revision; the grant is gone all the
            // same.
            let same = own.filter(|own| own.create_revision() == item.check.revision);
            let Some(own) = same else {
                self.on_gone(&item, proved);
                continue;
            };
            let put_at = own.mod_revision();
            if !self
                .shared
                .attempts
                .may_have_put(item.renewal.attempt, put_at)
            {
                let error = altered_key(OPERATION, &item.check.key);
                self.answer(&item, Renewed::Unknown(error));
                continue;
            }
            let predecessor = predecessor.and_then(Result::ok).flatten();
            let is_ahead = item
                .check
                .predecessor
                .as_ref()
                .zip(predecessor)
                .is_some_and(|(check, found)| check.is_met_by(&found));
            if is_ahead || item.renewal.token.is_some() {
                self.on_intact(item, reply.revision, proved);
            } else {
                self.moved.push((item, proved));
            }
        }
    }

    /// Handles an entry that is unchanged, and so is its predecessor.
    fn on_intact(&mut self, item: RenewalItem, revision: i64, proved: bool) {
        if item.reads_queue() {
            self.moved.push((item, proved));
            return;
        }
        let item = &item;
        let attempt = item.renewal.attempt;
        let now = self.shared.attempts.update(attempt, |entry| {
            entry.verified_revision = entry.verified_revision.max(revision);
            entry.needs_check = false;
            (entry.stage, entry.predecessor.clone(), entry.floor)
        });
        if !proved {
            // The keep-alive was for a lease that the store does not know, yet the entry exists:
            // one of the two replies is out of date.
            let error = RequestError::no_reply().into_error(OPERATION);
            self.answer(item, Renewed::Unknown(error));
            return;
        }
        let from = self.lease.proved_from();
        let outcome = match now {
            Some(_) if item.renewal.token.is_some() => Renewed::Proved { from },
            // The attempt may have become the holder in the meantime.
            Some((Stage::Holding, _, floor)) => {
                let revision = item.check.revision;
                Renewed::Granted(grant(&self.shared, attempt, &self.lease, revision, floor))
            }
            Some((_, Some(mut predecessor), _)) => {
                let is_behind_holder = match predecessor.awaits {
                    Awaits::Turn => predecessor.before.is_none(),
                    Awaits::Change { is_first, .. } => is_first,
                    Awaits::AnyRemoval(_) => false,
                };
                if !is_behind_holder {
                    // The holder may have changed since it was read.
                    predecessor.holder = None;
                }
                Renewed::Waiting(queue::waiting(from, revision, &predecessor))
            }
            _ => Renewed::Unknown(RequestError::no_reply().into_error(OPERATION)),
        };
        self.answer(item, outcome);
    }

    fn on_gone(&mut self, item: &RenewalItem, proved: bool) {
        let reason = if proved {
            LossReason::Evicted
        } else {
            self.shared.leases.mark_expired(&self.lease);
            LossReason::SessionLost
        };
        self.answer(item, Renewed::Gone(reason));
    }

    /// Handles a waiter whose predecessor is gone.
    async fn relocate(&mut self, item: &RenewalItem, proved: bool) {
        let unknown = |error: Error| Renewed::Unknown(error);
        let outcome = match queue::locate(&self.shared, item.renewal.attempt).await {
            _ if !proved => unknown(RequestError::no_reply().into_error(OPERATION)),
            Ok(Position::Granted(grant)) => Renewed::Granted(grant),
            Ok(Position::Waiting(waiting)) => Renewed::Waiting(waiting),
            Ok(Position::Gone) => Renewed::Gone(LossReason::Evicted),
            Err(error) => unknown(error.into_error(OPERATION)),
        };
        self.answer(item, outcome);
    }

    /// Reads the queue once for all these waiters of one lock.
    async fn relocate_together(&mut self, name: &LockName, items: &[(RenewalItem, bool)]) {
        let prefix = self.shared.keys.prefix(name);
        let (kvs, as_of) = match self.shared.contenders(&prefix, None).await {
            Ok(read) => read,
            Err(error) => {
                let error = error.into_error(OPERATION);
                for (item, _) in items {
                    self.answer(item, Renewed::Unknown(error.clone()));
                }
                return;
            }
        };
        let entries = Entries::new(OPERATION, &prefix, kvs);
        for (item, proved) in items {
            let check = &item.check;
            let Some(index) = entries.index(&check.key, check.revision) else {
                self.on_gone(item, *proved);
                continue;
            };
            let put_at = entries.get(index).map_or(0, KeyValue::mod_revision);
            let attempt = item.renewal.attempt;
            if !self.shared.attempts.may_have_put(attempt, put_at) {
                let error = altered_key(OPERATION, &check.key);
                self.answer(item, Renewed::Unknown(error));
                continue;
            }
            if !*proved {
                let error = RequestError::no_reply().into_error(OPERATION);
                self.answer(item, Renewed::Unknown(error));
                continue;
            }
            let placed = Placed {
                attempt,
                mode: item.snapshot.mode,
                revision: check.revision,
                lease: &self.lease,
                prefix: &prefix,
                as_of,
                ahead: index,
                successor: entries.mode(index + 1),
            };
            let answer = match position::place(&self.shared, &placed, &entries, OPERATION) {
                Position::Granted(grant) => Renewed::Granted(grant),
                Position::Waiting(waiting) => Renewed::Waiting(waiting),
                Position::Gone => Renewed::Gone(LossReason::Evicted),
            };
            self.answer(item, answer);
        }
    }

    fn answer(&self, item: &RenewalItem, answer: Renewed) {
        self.answers.send(item.index, answer);
    }
}
