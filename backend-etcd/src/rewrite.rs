//! Puts of a key that is in the queue. They keep the create revision, and so the place and the token.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tenure_core::{
    driver::Backoff,
    error::{Error, ErrorKind},
    id::AttemptId,
    loss::LossReason,
    mode::Mode,
    request::{Downgrade, Downgraded},
};

use crate::{
    attempts::{Attempt, Stage},
    error::{RequestError, backend_error},
    lease::{Lease, LeaseRef},
    queue::{self, altered_key},
    record,
    shared::Shared,
    txn,
};

const OPERATION: &str = "downgrading";

/// How often an announcement is sent until it is answered. If all are lost, the next waiter reads its position
/// with its next report.
const MAX_ANNOUNCEMENTS: usize = 5;

const ANNOUNCE_BACKOFF_INITIAL: Duration = Duration::from_millis(50);
const ANNOUNCE_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A put of an own key that is about to be sent.
struct OwnPut {
    key: Arc<str>,
    revision: i64,
    lease: Arc<Lease>,
    /// Whether every earlier put was answered.
    is_only: bool,
}

impl OwnPut {
    fn begin(entry: &mut Attempt) -> Option<Self> {
        let lease = entry.lease_ref.as_ref().map(LeaseRef::lease)?;
        Some(Self {
            key: Arc::clone(&entry.key),
            revision: entry.revision,
            lease: Arc::clone(lease),
            is_only: entry.put_at.take().is_some(),
        })
    }
}

/// Tells the waiter behind a new holder of permits that it is a holder, by a put of its key. The waiter
/// behind it watches that key, and then reads its own position.
pub(crate) fn announce_holder(shared: &Arc<Shared>, attempt: AttemptId) {
    tokio::spawn(announce(Arc::downgrade(shared), attempt));
}

async fn announce(shared: Weak<Shared>, attempt: AttemptId) {
    let mut backoff = Backoff::new(ANNOUNCE_BACKOFF_INITIAL, ANNOUNCE_BACKOFF_MAX);
    for _ in 0..MAX_ANNOUNCEMENTS {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let put = shared.attempts.update(attempt, |entry| {
            (entry.stage == Stage::Holding).then(|| OwnPut::begin(entry))?
        });
        let Some(put) = put.flatten() else { return };
        match shared.txn(txn::put_again(&put.key, put.revision)).await {
            Ok(reply) => {
                // A removed entry announces itself by its removal.
                if reply.succeeded {
                    shared
                        .attempts
                        .end_put(attempt, reply.revision, put.is_only);
                }
                return;
            }
            Err(error) => tracing::debug!(?error, "announcement not answered"),
        }
        let clock = Arc::clone(&shared.context.clock);
        drop(shared);
        backoff.pause(&*clock).await;
    }
}

/// Turns an exclusive grant into a shared one.
pub(crate) async fn downgrade(shared: &Shared, request: &Downgrade) -> Result<Downgraded, Error> {
    let floor = shared.context.token_floor.get();
    let begun = shared.attempts.update(request.attempt, |entry| {
        let is_holder = entry.stage == Stage::Holding;
        if !is_holder || record::token(floor, entry.revision) != request.token {
            return Ok(None);
        }
        if matches!(entry.mode, Mode::Permits { .. }) {
            let error = backend_error(
                ErrorKind::Unsupported,
                OPERATION,
                "a grant of permits cannot be downgraded",
            );
            return Err(error);
        }
        let value = record::downgraded(&entry.value);
        let put = OwnPut::begin(entry).zip(value);
        if put.is_some() {
            entry.mode = Mode::Shared;
        }
        Ok(put)
    });
    let Some(begun) = begun else {
        return Ok(Downgraded::Gone(LossReason::Evicted));
    };
    let Some((put, value)) = begun? else {
        return Ok(Downgraded::Gone(LossReason::Displaced));
    };
    let lease = &put.lease;
    let replace = txn::replace_value(&put.key, put.revision, value, lease.id);
    let mut reply = match shared.txn(replace).await {
        Ok(reply) => reply,
        Err(RequestError::LeaseGone) => {
            shared.leases.mark_expired(lease);
            return Ok(Downgraded::Gone(LossReason::SessionLost));
        }
        Err(error) => return Err(error.into_error(OPERATION)),
    };
    if reply.succeeded {
        shared
            .attempts
            .end_put(request.attempt, reply.revision, put.is_only);
        return Ok(Downgraded::Shared);
    }
    let own = reply
        .next_kv()
        .map_err(|error| error.into_error(OPERATION))?;
    match own {
        Some(own) if own.create_revision() == put.revision => Err(altered_key(OPERATION, &put.key)),
        _ => Ok(Downgraded::Gone(queue::loss_reason(
            shared,
            request.attempt,
        ))),
    }
}
