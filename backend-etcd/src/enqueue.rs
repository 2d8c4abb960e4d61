//! Entering a queue.

use std::sync::Arc;

use etcd_client::KeyValue;
use tenure_core::{
    error::{Error, ErrorKind},
    request::{Enqueue, Enqueued},
};

use crate::{
    admission,
    attempts::{Predecessor, Registration},
    error::{RequestError, backend_error, protocol_error},
    keys::parse_below,
    lease::Lease,
    position::{self, Entries, Placed},
    queue::{self, Position, grant},
    record, remove,
    shared::Shared,
    txn::{self, AttemptKeys, EXCLUSIVE_WINDOW, TxnReply},
};

const OPERATION: &str = "acquiring";

/// How often an enqueue is repeated when only keys that are not contenders lie below its prefix.
const MAX_CHANGED_PREFIX_RETRIES: usize = 5;

/// An enqueue in flight.
struct EnqueueOp<'a> {
    shared: &'a Arc<Shared>,
    request: &'a Enqueue,
    prefix: String,
    fence: String,
}

pub(crate) async fn enqueue(shared: &Arc<Shared>, request: &Enqueue) -> Result<Enqueued, Error> {
    let attempt = request.attempt;
    let operation = EnqueueOp {
        shared,
        request,
        prefix: shared.keys.prefix(&request.name),
        fence: shared.keys.fence(attempt),
    };
    let outcome = match shared
        .attempts
        .register(attempt, &request.name, request.mode)
    {
        Registration::Fenced => return Ok(Enqueued::Gone),
        Registration::New => operation.enqueue_new().await,
        Registration::Existing(snapshot) => match snapshot.lease {
            Some(lease) => {
                operation
                    .repeat(&lease, &snapshot.key, snapshot.revision)
                    .await
            }
            None => operation.enqueue_new().await,
        },
    };
    let is_finished = match &outcome {
        Ok(Enqueued::Busy(_) | Enqueued::Gone) => true,
        Ok(_) => false,
        Err(error) => error.is_without_effect(),
    };
    if is_finished {
        shared.watcher.stop(shared.attempts.forget(attempt));
    }
    outcome
}

impl EnqueueOp<'_> {
    async fn enqueue_new(&self) -> Result<Enqueued, Error> {
        let Self {
            shared, request, ..
        } = self;
        loop {
            let lease_ref = shared.leases.acquire(request.ttl).await;
            let lease_ref = lease_ref.map_err(|error| error.into_error(OPERATION))?;
            let lease = Arc::clone(lease_ref.lease());
            let stem = shared.keys.stem(&request.name, lease.id);
            // From here on, the attempt can be found again even if this future is dropped.
            let Some(key) = shared
                .attempts
                .assign_lease(request.attempt, lease_ref, stem)
            else {
                return Ok(Enqueued::Gone);
            };
            match self.send(&lease, &key).await {
                Ok(reply) => return Ok(reply),
                // The lease has expired, so the store has changed nothing.
                Err(RequestError::LeaseGone) => shared.leases.mark_expired(&lease),
                Err(error) => return Err(error.into_error(OPERATION)),
            }
        }
    }

    /// Repeats an enqueue that was sent before: the same result, with the full TTL (T3).
    async fn repeat(
        &self,
        lease: &Arc<Lease>,
        key: &str,
        revision: i64,
    ) -> Result<Enqueued, Error> {
        match self.shared.leases.refresh(lease).await {
            Ok(()) => {}
            Err(RequestError::LeaseGone) => {
                self.shared.leases.mark_expired(lease);
                return Ok(Enqueued::Gone);
            }
            Err(error) => return Err(outcome_unknown(error)),
        }
        if revision > 0 {
            return self.locate().await;
        }
        match self.send(lease, key).await {
            Ok(reply) => Ok(reply),
            Err(RequestError::LeaseGone) => Ok(Enqueued::Gone),
            Err(error) => Err(error.into_error(OPERATION)),
        }
    }

    async fn send(&self, lease: &Arc<Lease>, key: &str) -> Result<Enqueued, RequestError> {
        let value = record::encode(self.request, self.shared.context.token_floor);
        let keys = AttemptKeys {
            prefix: &self.prefix,
            key,
            fence: &self.fence,
        };
        // A downgrade writes it again with another mode.
        let kept = value.clone();
        self.shared
            .attempts
            .update(self.request.attempt, |entry| entry.value = kept);
        if !self.request.mode.is_exclusive() {
            return self.enqueue_among(keys, value, lease).await;
        }
        if !self.request.wait {
            return self.try_enqueue(keys, value, lease).await;
        }
        let enqueue = txn::enqueue(keys, value, lease.id, EXCLUSIVE_WINDOW);
        let mut reply = self.shared.txn(enqueue).await?;
        if !reply.succeeded {
            return self.not_enqueued(&mut reply).await;
        }
        let (first, last) = (reply.next_kv()?, reply.next_kvs()?);
        match self.predecessor(reply.revision, first, &last).await {
            Ok(Some(predecessor)) => Ok(self.waiting(lease, reply.revision, predecessor)),
            Ok(None) => Ok(self.granted(lease, reply.revision)),
            // The predecessor cannot be read; the entry must not stay behind.
            Err(unreadable) => Err(self.undo(reply.revision, unreadable).await.into()),
        }
    }

    /// Enters the queue with a mode that is not exclusive.
    async fn enqueue_among(
        &self,
        keys: AttemptKeys<'_>,
        value: Vec<u8>,
        lease: &Arc<Lease>,
    ) -> Result<Enqueued, RequestError> {
        let (shared, mode) = (self.shared, self.request.mode);
        if !self.request.wait {
            let if_empty = txn::enqueue_if_empty(keys, value.clone(), lease.id);
            let mut reply = shared.txn(if_empty).await?;
            if reply.succeeded {
                return Ok(self.granted(lease, reply.revision));
            }
            let read = (reply.next_kv()?, reply.next_kv()?, reply.next_kvs()?);
            let (own, fence, mut all) = read;
            if own.is_some() || fence.is_some() {
                return self.already_known(own, fence).await;
            }
            all.reverse();
            let mut entries = Entries::new(OPERATION, &self.prefix, all);
            if let Some(error) = entries.unreadable() {
                return Err(error.into());
            }
            if !entries.admits(mode) {
                return Ok(self.busy(&entries));
            }
        }
        let window = admission::deciding_entries(mode);
        let enqueue = txn::enqueue(keys, value, lease.id, window);
        let mut reply = shared.txn(enqueue).await?;
        if !reply.succeeded {
            return self.not_enqueued(&mut reply).await;
        }
        let revision = reply.revision;
        let read = (reply.next_kv()?, reply.next_kvs()?);
        self.record_revision(revision);
        let ahead = Entries::ahead(shared, OPERATION, &self.prefix, revision, read, window).await;
        let mut entries = ahead.map_err(outcome_unknown)?;
        // An entry ahead cannot be read; the own entry must not stay behind.
        if let Some(unreadable) = entries.unreadable() {
            return Err(self.undo(revision, unreadable).await.into());
        }
        if !self.request.wait && !entries.admits(mode) {
            // Another entry has come in between.
            self.leave().await?;
            return Ok(self.busy(&entries));
        }
        let placed = Placed {
            attempt: self.request.attempt,
            mode,
            revision,
            lease,
            prefix: &self.prefix,
            as_of: revision,
            ahead: entries.len(),
            successor: None,
        };
        Ok(
            match position::place(shared, &placed, &entries, OPERATION) {
                Position::Granted(grant) => Enqueued::Granted(grant),
                Position::Waiting(waiting) => Enqueued::Waiting(waiting),
                Position::Gone => Enqueued::Gone,
            },
        )
    }

    fn busy(&self, entries: &Entries) -> Enqueued {
        let first = entries.first(OPERATION, &self.prefix);
        Enqueued::Busy(first.map(|first| first.holder()).unwrap_or_default())
    }

    async fn try_enqueue(
        &self,
        keys: AttemptKeys<'_>,
        value: Vec<u8>,
        lease: &Arc<Lease>,
    ) -> Result<Enqueued, RequestError> {
        let mut free = txn::try_enqueue(keys, value.clone(), lease.id);
        for _ in 0..MAX_CHANGED_PREFIX_RETRIES {
            let mut reply = self.shared.txn(free).await?;
            if reply.succeeded {
                return Ok(self.granted(lease, reply.revision));
            }
            let (own, fence, first) = (reply.next_kv()?, reply.next_kv()?, reply.next_kv()?);
            if fence.is_some() {
                return Ok(Enqueued::Gone);
            }
            if let Some(own) = own {
                self.record_revision(own.create_revision());
                return Ok(self.locate().await?);
            }
            let first = first.ok_or_else(RequestError::malformed_reply)?;
            if let Some(contender) = parse_below(&self.prefix, first.key()) {
                let entry = record::read(OPERATION, contender, &first)?;
                return Ok(Enqueued::Busy(entry.holder()));
            }
            // The first key below the prefix is not a contender.
            let (found, revision) = self.shared.contenders(&self.prefix, None).await?;
            if let Some(first) = found.first() {
                let entry = self.shared.read(OPERATION, first).await?;
                return Ok(Enqueued::Busy(
                    entry.map(|entry| entry.holder()).unwrap_or_default(),
                ));
            }
            free = txn::try_enqueue_unchanged(keys, value.clone(), lease.id, revision);
        }
        let detail =
            "keys below the lock's prefix keep changing; find out which other program writes them";
        Err(backend_error(ErrorKind::Unavailable, OPERATION, detail).into())
    }

    /// The entry already exists, or the attempt was fenced off.
    async fn not_enqueued(&self, reply: &mut TxnReply) -> Result<Enqueued, RequestError> {
        let (own, fence) = (reply.next_kv()?, reply.next_kv()?);
        self.already_known(own, fence).await
    }

    async fn already_known(
        &self,
        own: Option<KeyValue>,
        fence: Option<KeyValue>,
    ) -> Result<Enqueued, RequestError> {
        match (own, fence) {
            (_, Some(_)) => Ok(Enqueued::Gone),
            (Some(own), None) => {
                self.record_revision(own.create_revision());
                Ok(self.locate().await?)
            }
            (None, None) => Err(RequestError::malformed_reply()),
        }
    }

    /// The predecessor, or `None` if no other key below the prefix is a contender.
    async fn predecessor(
        &self,
        revision: i64,
        first: Option<KeyValue>,
        last: &[KeyValue],
    ) -> Result<Option<Predecessor>, Error> {
        let Some(last_one) = last.first() else {
            return Ok(None);
        };
        let first = first.ok_or_else(|| protocol_error(OPERATION))?;
        let holder = parse_below(&self.prefix, first.key());
        let known = queue::predecessor_of(&self.prefix, last);
        let Some((holder, mut predecessor)) = holder.zip(known) else {
            return queue::find_predecessor(self.shared, &self.prefix, revision)
                .await
                .map_err(outcome_unknown);
        };
        predecessor.holder = Some(record::read(OPERATION, holder, &first)?.holder());
        if let Some(contender) = parse_below(&self.prefix, last_one.key()) {
            record::read(OPERATION, contender, last_one)?;
        }
        Ok(Some(predecessor))
    }

    fn record_revision(&self, revision: i64) {
        self.shared.attempts.update(self.request.attempt, |entry| {
            entry.revision = revision;
            entry.put_at = Some(revision);
            entry.verified_revision = revision;
        });
    }

    fn granted(&self, lease: &Lease, revision: i64) -> Enqueued {
        let attempt = self.request.attempt;
        self.record_revision(revision);
        queue::mark_holding(self.shared, attempt, None);
        Enqueued::Granted(grant(self.shared, attempt, lease, revision, None))
    }

    fn waiting(&self, lease: &Lease, revision: i64, predecessor: Predecessor) -> Enqueued {
        self.record_revision(revision);
        Enqueued::Waiting(queue::mark_waiting(
            self.shared,
            self.request.attempt,
            lease,
            revision,
            predecessor,
        ))
    }

    async fn locate(&self) -> Result<Enqueued, Error> {
        match queue::locate(self.shared, self.request.attempt).await {
            Ok(Position::Granted(grant)) => Ok(Enqueued::Granted(grant)),
            Ok(Position::Waiting(waiting)) if self.request.wait => Ok(Enqueued::Waiting(waiting)),
            Ok(Position::Waiting(waiting)) => {
                self.leave().await?;
                Ok(Enqueued::Busy(waiting.holder.unwrap_or_default()))
            }
            Ok(Position::Gone) => Ok(Enqueued::Gone),
            // The entry may exist, so it must not be forgotten.
            Err(error) => Err(outcome_unknown(error)),
        }
    }

    /// Removes the entry of an attempt that does not wait.
    async fn leave(&self) -> Result<(), Error> {
        let Enqueue { attempt, name, .. } = self.request;
        match remove::remove_known(self.shared, *attempt, name).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.with_kind(ErrorKind::OutcomeUnknown)),
        }
    }

    /// Removes the entry again.
    async fn undo(&self, revision: i64, reason: Error) -> Error {
        self.record_revision(revision);
        match remove::remove_known(self.shared, self.request.attempt, &self.request.name).await {
            Ok(_) => reason,
            Err(_) => reason.with_kind(ErrorKind::OutcomeUnknown),
        }
    }
}

/// The error for an entry that may exist although no reply says so.
fn outcome_unknown(error: RequestError) -> Error {
    error
        .into_error(OPERATION)
        .with_kind(ErrorKind::OutcomeUnknown)
}
