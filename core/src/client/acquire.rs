//! Acquiring: attempts, one after the other, within one time budget (clauses A1 to A5, W5).

use std::{sync::Arc, time::Duration};

use super::{Client, Hub, Slot, slot::Progress, time};
use crate::{
    clock::Instant,
    error::{Error, ErrorKind},
    guard::Guard,
    loss::LossReason,
    name::LockName,
    request::{Enqueue, Enqueued, Holder, Owner, Waiting},
    telemetry,
};

/// How a waiter whose place is gone pauses between two tries at another: from here, doubling, to one
/// second.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What came of an acquire that does not wait for ever.
#[derive(Debug)]
#[non_exhaustive]
#[must_use]
pub enum Acquisition {
    /// The lock is ours.
    Acquired(Guard),
    /// Somebody else has it, and who, as far as the store can tell (clause A5).
    Busy(Holder),
}

impl Acquisition {
    /// The guard, if the lock was acquired.
    #[must_use]
    pub fn acquired(self) -> Option<Guard> {
        match self {
            Self::Acquired(guard) => Some(guard),
            Self::Busy(_) => None,
        }
    }
}

/// What is to be acquired, and how.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) name: LockName,
    pub(crate) owner: Owner,
    pub(crate) ttl: Duration,
    /// Whether to wait for the lock.
    pub(crate) wait: bool,
    /// When to give up; network included.
    pub(crate) until: Instant,
}

/// Takes its attempt out of the store unless it was told how the attempt ended.
#[derive(Debug)]
struct Pending<'a> {
    hub: &'a Arc<Hub>,
    slot: &'a Arc<Slot>,
    /// Whether the enqueue was answered.
    answered: bool,
    over: bool,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.slot.leave(self.hub.now());
            self.hub.remove_later(self.slot, self.answered);
        }
    }
}

/// What one attempt came to.
enum Attempted {
    Acquired(Guard),
    Busy(Holder),
    /// The entry is gone; go on with a new attempt at the end of the queue (W5).
    Gone,
}

impl Client {
    /// Makes attempts until one is granted or the budget is spent.
    pub(crate) async fn acquire(
        &self,
        order: Order,
        on_wait: &mut (dyn FnMut(&Waiting) + Send),
    ) -> Result<Acquisition, Error> {
        let hub = &self.0.hub;
        let started = hub.now();
        // Whether it has had a place in the queue, and how long the next pause is.
        let mut queued = false;
        let mut pause = FIRST_PAUSE;
        let outcome = loop {
            match self.attempt(&order, &mut queued, on_wait).await {
                Ok(Attempted::Acquired(guard)) => break Ok(Acquisition::Acquired(guard)),
                Ok(Attempted::Busy(holder)) => break Ok(Acquisition::Busy(holder)),
                Ok(Attempted::Gone) if hub.now() >= order.until && !order.wait => {
                    break Err(Error::new(ErrorKind::Timeout, "acquiring")
                        .with_backend(self.0.info.scheme)
                        .with_lock(order.name.clone())
                        .with_detail(
                            "the store's answers take longer than the lease lasts; use a longer TTL",
                        ));
                }
                Ok(Attempted::Gone) if hub.now() >= order.until => {
                    break Ok(Acquisition::Busy(Holder::default()));
                }
                Ok(Attempted::Gone) => {
                    tracing::debug!("the entry is gone from the queue; enqueueing anew");
                }
                // Who has waited has time: a store that is away for a while, or has forgotten the
                // queue in a restart, does not end that. A first answer that does not come does.
                Err(error) if queued && error.is_retryable() && hub.now() + pause < order.until => {
                    tracing::debug!(%error, "could not enqueue anew; trying again");
                    hub.clock.sleep_until(hub.now() + pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => break Err(error),
            }
        };
        let label = match &outcome {
            Ok(Acquisition::Acquired(_)) => "acquired",
            Ok(Acquisition::Busy(_)) => "busy",
            Err(_) => "error",
        };
        telemetry::acquired(self.0.info.scheme, hub.now().since(started), label);
        outcome
    }

    async fn attempt(
        &self,
        order: &Order,
        queued: &mut bool,
        on_wait: &mut (dyn FnMut(&Waiting) + Send),
    ) -> Result<Attempted, Error> {
        let hub = &self.0.hub;
        let slot = hub.register(order.name.clone(), order.ttl)?;
        let mut pending = Pending {
            hub,
            slot: &slot,
            answered: false,
            over: false,
        };
        let request = Enqueue::new(
            order.name.clone(),
            slot.attempt,
            order.owner.clone(),
            order.ttl,
            order.wait,
        );
        let limit = order.until.min(hub.now() + hub.request_timeout);
        let call = self.0.remover.backend.enqueue(request);
        let answer = time::until(&*hub.clock, limit, call).await;
        let answer = answer.unwrap_or_else(|| Err(no_answer()));
        let answer = answer.map_err(|error| {
            if error.kind().is_without_effect() {
                pending.answered = true;
                pending.over = true;
                hub.forget(&slot);
            }
            error
                .with_backend(self.0.info.scheme)
                .with_lock(order.name.clone())
        })?;
        pending.answered = true;
        match answer {
            Enqueued::Busy(holder) => {
                pending.over = true;
                hub.forget(&slot);
                return Ok(Attempted::Busy(holder));
            }
            Enqueued::Gone => {
                pending.over = true;
                hub.forget(&slot);
                return Ok(Attempted::Gone);
            }
            answer => hub.enqueued(&slot, answer),
        }
        let mut told = None;
        loop {
            let changed = slot.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match slot.progress(hub.now()) {
                Progress::Granted => {
                    pending.over = true;
                    return Ok(Attempted::Acquired(Guard::new(
                        self.clone(),
                        Arc::clone(&slot),
                    )));
                }
                Progress::Left(LossReason::Closed) => {
                    return Err(Error::new(ErrorKind::Closed, "acquiring")
                        .with_backend(self.0.info.scheme)
                        .with_lock(order.name.clone())
                        .with_detail("it was shut down while the lock was waited for"));
                }
                Progress::Left(_) => return Ok(Attempted::Gone),
                Progress::Failed(error) => return Err(self.waiting_failed(error, order)),
                Progress::Waiting(waiting) => {
                    *queued = true;
                    if told.as_ref() != Some(&waiting) {
                        on_wait(&waiting);
                    }
                    if hub.now() >= order.until {
                        // What was known of the holder may be long past.
                        return match slot.trouble() {
                            Some(error) => Err(self.waiting_failed(error, order)),
                            None => Ok(Attempted::Busy(waiting.holder.unwrap_or_default())),
                        };
                    }
                    told = Some(waiting);
                }
            }
            let _ = time::until(&*hub.clock, order.until, changed).await;
        }
    }
}

impl Client {
    /// A report's error, as that of the acquire that has waited. The attempt is in the queue, if
    /// anything, and never was granted: nothing is unknown of it.
    fn waiting_failed(&self, error: Error, order: &Order) -> Error {
        let kind = match error.kind() {
            ErrorKind::OutcomeUnknown | ErrorKind::Timeout => ErrorKind::Unavailable,
            kind => kind,
        };
        let error = if error.detail().is_some() {
            error
        } else {
            error.with_detail("it could not be asked whose turn it is")
        };
        error
            .with_kind(kind)
            .with_operation("waiting for")
            .with_backend(self.0.info.scheme)
            .with_lock(order.name.clone())
    }
}

fn no_answer() -> Error {
    Error::new(ErrorKind::OutcomeUnknown, "acquiring").with_detail(
        "the store gave no answer in time; should it have granted the lock, the grant is taken \
         back",
    )
}
