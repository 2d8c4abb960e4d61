//! Entering a queue.

use std::sync::Arc;

use etcd_client::{KeyValue, Txn};
use tenure_core::{
    error::{Error, ErrorKind},
    request::{Enqueue, Enqueued},
};

use crate::{
    attempts::{Predecessor, Registration},
    error::{RequestError, backend_error, protocol_error},
    keys::parse_below,
    lease::Lease,
    queue::{self, Position, grant, predecessor_with_holder},
    record, remove,
    shared::Shared,
    txn::{self, AttemptKeys, TxnReply},
};

const OPERATION: &str = "acquiring";

/// How often an enqueue is repeated when only keys that are not contenders lie below its prefix.
const MAX_CHANGED_PREFIX_RETRIES: usize = 5;

/// An enqueue in flight.
struct EnqueueOp<'a> {
    shared: &'a Shared,
    request: &'a Enqueue,
    prefix: String,
    fence: String,
}

pub(crate) async fn enqueue(shared: &Shared, request: &Enqueue) -> Result<Enqueued, Error> {
    let attempt = request.attempt;
    let operation = EnqueueOp {
        shared,
        request,
        prefix: shared.keys.prefix(&request.name),
        fence: shared.keys.fence(attempt),
    };
    let outcome = match shared.attempts.register(attempt, &request.name) {
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
        Err(error) => error.kind().is_without_effect(),
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
                Ok(reply) => return reply,
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
            Ok(reply) => reply,
            Err(RequestError::LeaseGone) => Ok(Enqueued::Gone),
            Err(error) => Err(error.into_error(OPERATION)),
        }
    }

    async fn send(
        &self,
        lease: &Arc<Lease>,
        key: &str,
    ) -> Result<Result<Enqueued, Error>, RequestError> {
        let value = record::encode(self.request, self.shared.context.token_floor);
        let keys = AttemptKeys {
            prefix: &self.prefix,
            key,
            fence: &self.fence,
        };
        if !self.request.wait {
            let free = txn::try_enqueue(keys, value.clone(), lease.id);
            return self.try_enqueue(keys, value, lease, free).await;
        }
        let (uncontended, name) = (&self.shared.uncontended, &self.request.name);
        if uncontended.contains(name) {
            let request = txn::enqueue_uncontended(keys, value.clone(), lease.id);
            let reply = self.shared.txn(request).await?;
            if reply.succeeded {
                return Ok(Ok(self.granted(lease, reply.revision)));
            }
            uncontended.record_contended(name);
        }
        let mut reply = self.shared.txn(txn::enqueue(keys, value, lease.id)).await?;
        if !reply.succeeded {
            return self.not_enqueued(&mut reply).await;
        }
        let (first, last) = (reply.next_kv()?, reply.next_kv()?);
        let Some(last) = last else {
            uncontended.record_free(name);
            return Ok(Ok(self.granted(lease, reply.revision)));
        };
        uncontended.record_contended(name);
        let predecessor = self.predecessor(reply.revision, first, last).await;
        match predecessor {
            Ok(Some(predecessor)) => Ok(Ok(self.waiting(lease, reply.revision, predecessor))),
            Ok(None) => Ok(Ok(self.granted(lease, reply.revision))),
            // The predecessor cannot be read; the entry must not stay behind.
            Err(unreadable) => Ok(Err(self.undo(reply.revision, unreadable).await)),
        }
    }

    async fn try_enqueue(
        &self,
        keys: AttemptKeys<'_>,
        value: Vec<u8>,
        lease: &Arc<Lease>,
        mut free: Txn,
    ) -> Result<Result<Enqueued, Error>, RequestError> {
        for _ in 0..MAX_CHANGED_PREFIX_RETRIES {
            let mut reply = self.shared.txn(free).await?;
            if reply.succeeded {
                return Ok(Ok(self.granted(lease, reply.revision)));
            }
            let (own, fence, first) = (reply.next_kv()?, reply.next_kv()?, reply.next_kv()?);
            if fence.is_some() {
                return Ok(Ok(Enqueued::Gone));
            }
            if let Some(own) = own {
                self.record_revision(own.create_revision());
                return Ok(self.locate().await);
            }
            let first = first.ok_or_else(RequestError::malformed_reply)?;
            if let Some(contender) = parse_below(&self.prefix, first.key()) {
                let holder = record::read(OPERATION, contender, &first);
                return Ok(holder.map(|entry| Enqueued::Busy(entry.holder())));
            }
            // The first key below the prefix is not a contender.
            let (found, revision) = self.shared.contenders(&self.prefix, None).await?;
            if let Some(first) = found.first() {
                let entry = self.shared.read(OPERATION, first).await?;
                return Ok(entry.map(|entry| {
                    Enqueued::Busy(entry.map(|entry| entry.holder()).unwrap_or_default())
                }));
            }
            free = txn::try_enqueue_unchanged(keys, value.clone(), lease.id, revision);
        }
        Ok(Err(backend_error(
            ErrorKind::Unavailable,
            OPERATION,
            "keys below the lock's prefix keep changing; find out which other program writes them",
        )))
    }

    /// The entry already exists, or the attempt was fenced off.
    async fn not_enqueued(
        &self,
        reply: &mut TxnReply,
    ) -> Result<Result<Enqueued, Error>, RequestError> {
        let (own, fence) = (reply.next_kv()?, reply.next_kv()?);
        match (own, fence) {
            (_, Some(_)) => Ok(Ok(Enqueued::Gone)),
            (Some(own), None) => {
                self.record_revision(own.create_revision());
                Ok(self.locate().await)
            }
            (None, None) => Err(RequestError::malformed_reply()),
        }
    }

    /// The predecessor, or `None` if no other key below the prefix is a contender.
    async fn predecessor(
        &self,
        revision: i64,
        first: Option<KeyValue>,
        last: KeyValue,
    ) -> Result<Option<Predecessor>, Error> {
        let first = first.ok_or_else(|| protocol_error(OPERATION))?;
        let known =
            parse_below(&self.prefix, first.key()).zip(parse_below(&self.prefix, last.key()));
        let Some((holder, predecessor)) = known else {
            return queue::find_predecessor(self.shared, &self.prefix, revision)
                .await
                .map(|found| found.map(|(predecessor, _)| predecessor))
                .map_err(outcome_unknown);
        };
        let holder = record::read(OPERATION, holder, &first)?;
        record::read(OPERATION, predecessor, &last)?;
        Ok(Some(predecessor_with_holder(&last, &holder)))
    }

    fn record_revision(&self, revision: i64) {
        self.shared.attempts.update(self.request.attempt, |entry| {
            entry.revision = revision;
            entry.verified_revision = revision;
        });
    }

    fn granted(&self, lease: &Lease, revision: i64) -> Enqueued {
        let attempt = self.request.attempt;
        self.record_revision(revision);
        queue::mark_holding(self.shared, attempt);
        Enqueued::Granted(grant(self.shared, attempt, lease, revision))
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
            Ok(Ok(Position::Granted(grant))) => Ok(Enqueued::Granted(grant)),
            Ok(Ok(Position::Waiting(waiting))) => Ok(Enqueued::Waiting(waiting)),
            Ok(Ok(Position::Gone)) => Ok(Enqueued::Gone),
            // The entry exists, so it must not be forgotten.
            Ok(Err(unreadable)) => Err(unreadable.with_kind(ErrorKind::OutcomeUnknown)),
            Err(error) => Err(outcome_unknown(error)),
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
