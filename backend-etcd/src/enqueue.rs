//! Entering a queue.

use std::sync::Arc;

use etcd_client::{KeyValue, Txn};
use tenure_core::{
    error::{Error, ErrorKind},
    request::{Enqueue, Enqueued},
};

use crate::{
    attempts::{Predecessor, Registration},
    error::{Fault, error, unexpected},
    keys::below,
    lease::Lease,
    queue::{self, Turn, grant, predecessor_with_holder},
    record, remove,
    shared::Core,
    txn::{self, Answer, Place},
};

const OPERATION: &str = "acquiring";

/// How often an attempt is repeated that has met nothing but noise below its prefix.
const TRIES: usize = 5;

/// An enqueue under way.
struct Entering<'a> {
    core: &'a Core,
    request: &'a Enqueue,
    prefix: String,
    fence: String,
}

pub(crate) async fn enqueue(core: &Core, request: &Enqueue) -> Result<Enqueued, Error> {
    let attempt = request.attempt;
    let entering = Entering {
        core,
        request,
        prefix: core.keys.prefix(&request.name),
        fence: core.keys.fence(attempt),
    };
    let answer = match core.attempts.register(attempt, &request.name) {
        Registration::Fenced => return Ok(Enqueued::Gone),
        Registration::New => entering.anew().await,
        Registration::Existing(snapshot) => match snapshot.lease {
            Some(lease) => {
                entering
                    .again(&lease, &snapshot.key, snapshot.revision)
                    .await
            }
            None => entering.anew().await,
        },
    };
    let over = match &answer {
        Ok(Enqueued::Busy(_) | Enqueued::Gone) => true,
        Ok(_) => false,
        Err(error) => error.kind().is_without_effect(),
    };
    if over {
        core.watcher.end(core.attempts.forget(attempt));
    }
    answer
}

impl Entering<'_> {
    async fn anew(&self) -> Result<Enqueued, Error> {
        let Self { core, request, .. } = self;
        loop {
            let lease_ref = core.leases.acquire(request.ttl).await;
            let lease_ref = lease_ref.map_err(|fault| fault.into_error(OPERATION))?;
            let lease = Arc::clone(lease_ref.lease());
            let stem = core.keys.stem(&request.name, lease.id);
            // From here on it can be found again, whatever becomes of this future.
            let Some(key) = core.attempts.assign_lease(request.attempt, lease_ref, stem) else {
                return Ok(Enqueued::Gone);
            };
            match self.send(&lease, &key).await {
                Ok(answer) => return answer,
                // The store has let the lease expire, and has done nothing.
                Err(Fault::LeaseGone) => core.leases.mark_expired(&lease),
                Err(fault) => return Err(fault.into_error(OPERATION)),
            }
        }
    }

    /// Asks for an attempt that was enqueued before: the same answer, with the full TTL (T3).
    async fn again(&self, lease: &Arc<Lease>, key: &str, revision: i64) -> Result<Enqueued, Error> {
        match self.core.leases.refresh(lease).await {
            Ok(()) => {}
            Err(Fault::LeaseGone) => {
                self.core.leases.mark_expired(lease);
                return Ok(Enqueued::Gone);
            }
            Err(fault) => return Err(unanswered(fault)),
        }
        if revision > 0 {
            return self.turn().await;
        }
        match self.send(lease, key).await {
            Ok(answer) => answer,
            Err(Fault::LeaseGone) => Ok(Enqueued::Gone),
            Err(fault) => Err(fault.into_error(OPERATION)),
        }
    }

    async fn send(&self, lease: &Arc<Lease>, key: &str) -> Result<Result<Enqueued, Error>, Fault> {
        let value = record::encode(self.request, self.core.context.token_floor);
        let place = Place {
            prefix: &self.prefix,
            me: key,
            fence: &self.fence,
        };
        if !self.request.wait {
            let free = txn::enter_free(place, value.clone(), lease.id);
            return self.send_free(place, value, lease, free).await;
        }
        let (quiet, name) = (&self.core.quiet, &self.request.name);
        if quiet.is_quiet(name) {
            let enter = txn::enter_quiet(place, value.clone(), lease.id);
            let answer = self.core.txn(enter).await?;
            if answer.succeeded {
                return Ok(Ok(self.granted(lease, answer.revision)));
            }
            quiet.was_taken(name);
        }
        let mut answer = self.core.txn(txn::enter(place, value, lease.id)).await?;
        if !answer.succeeded {
            return self.refused(&mut answer).await;
        }
        let (first, last) = (answer.one()?, answer.one()?);
        let Some(last) = last else {
            quiet.was_free(name);
            return Ok(Ok(self.granted(lease, answer.revision)));
        };
        quiet.was_taken(name);
        let queued = self.queued(answer.revision, first, last).await;
        match queued {
            Ok(Some(predecessor)) => Ok(Ok(self.waiting(lease, answer.revision, predecessor))),
            Ok(None) => Ok(Ok(self.granted(lease, answer.revision))),
            // What is in front cannot be read: nothing may be left behind.
            Err(unreadable) => Ok(Err(self.undo(answer.revision, unreadable).await)),
        }
    }

    async fn send_free(
        &self,
        place: Place<'_>,
        value: Vec<u8>,
        lease: &Arc<Lease>,
        mut free: Txn,
    ) -> Result<Result<Enqueued, Error>, Fault> {
        for _ in 0..TRIES {
            let mut answer = self.core.txn(free).await?;
            if answer.succeeded {
                return Ok(Ok(self.granted(lease, answer.revision)));
            }
            let (me, fence, first) = (answer.one()?, answer.one()?, answer.one()?);
            if fence.is_some() {
                return Ok(Ok(Enqueued::Gone));
            }
            if let Some(me) = me {
                self.entered(me.create_revision());
                return Ok(self.turn().await);
            }
            let first = first.ok_or_else(Fault::garbled)?;
            if let Some(contender) = below(&self.prefix, first.key()) {
                let holder = record::read(OPERATION, contender, &first);
                return Ok(holder.map(|entry| Enqueued::Busy(entry.holder())));
            }
            // Something lies below the prefix that is no contender.
            let (found, revision) = self.core.contenders(&self.prefix, None).await?;
            if let Some(first) = found.first() {
                let entry = self.core.read(OPERATION, first).await?;
                return Ok(entry.map(|entry| {
                    Enqueued::Busy(entry.map(|entry| entry.holder()).unwrap_or_default())
                }));
            }
            free = txn::enter_unchanged(place, value.clone(), lease.id, revision);
        }
        Ok(Err(error(
            ErrorKind::Unavailable,
            OPERATION,
            "keys below the lock's prefix change all the time; see who else writes there",
        )))
    }

    /// The entry is there already, or the attempt was fenced off.
    async fn refused(&self, answer: &mut Answer) -> Result<Result<Enqueued, Error>, Fault> {
        let (me, fence) = (answer.one()?, answer.one()?);
        match (me, fence) {
            (_, Some(_)) => Ok(Ok(Enqueued::Gone)),
            (Some(me), None) => {
                self.entered(me.create_revision());
                Ok(self.turn().await)
            }
            (None, None) => Err(Fault::garbled()),
        }
    }

    /// Who is in front: `None` if it is nothing but noise.
    async fn queued(
        &self,
        revision: i64,
        first: Option<KeyValue>,
        last: KeyValue,
    ) -> Result<Option<Predecessor>, Error> {
        let first = first.ok_or_else(|| unexpected(OPERATION))?;
        let known = below(&self.prefix, first.key()).zip(below(&self.prefix, last.key()));
        let Some((holder, predecessor)) = known else {
            return queue::behind_noise(self.core, &self.prefix, revision)
                .await
                .map(|found| found.map(|(predecessor, _)| predecessor))
                .map_err(unanswered);
        };
        let holder = record::read(OPERATION, holder, &first)?;
        record::read(OPERATION, predecessor, &last)?;
        Ok(Some(predecessor_with_holder(&last, &holder)))
    }

    fn entered(&self, revision: i64) {
        self.core.attempts.update(self.request.attempt, |entry| {
            entry.revision = revision;
            entry.verified_revision = revision;
        });
    }

    fn granted(&self, lease: &Lease, revision: i64) -> Enqueued {
        let attempt = self.request.attempt;
        self.entered(revision);
        queue::hold(self.core, attempt);
        Enqueued::Granted(grant(self.core, attempt, lease, revision))
    }

    fn waiting(&self, lease: &Lease, revision: i64, predecessor: Predecessor) -> Enqueued {
        self.entered(revision);
        Enqueued::Waiting(queue::wait(
            self.core,
            self.request.attempt,
            lease,
            revision,
            predecessor,
        ))
    }

    async fn turn(&self) -> Result<Enqueued, Error> {
        match queue::turn(self.core, self.request.attempt).await {
            Ok(Ok(Turn::Granted(grant))) => Ok(Enqueued::Granted(grant)),
            Ok(Ok(Turn::Waiting(waiting))) => Ok(Enqueued::Waiting(waiting)),
            Ok(Ok(Turn::Gone)) => Ok(Enqueued::Gone),
            // The entry is there: to forget it would be wrong.
            Ok(Err(unreadable)) => Err(unreadable.with_kind(ErrorKind::OutcomeUnknown)),
            Err(fault) => Err(unanswered(fault)),
        }
    }

    /// Takes back what was entered.
    async fn undo(&self, revision: i64, reason: Error) -> Error {
        self.entered(revision);
        match remove::take_out(self.core, self.request.attempt, &self.request.name).await {
            Ok(_) => reason,
            Err(_) => reason.with_kind(ErrorKind::OutcomeUnknown),
        }
    }
}

/// Nothing was said about an entry that may be there.
fn unanswered(fault: Fault) -> Error {
    fault
        .into_error(OPERATION)
        .with_kind(ErrorKind::OutcomeUnknown)
}
