//! Acquiring: a sequence of attempts within one time budget (clauses A1 to A5, W5).

use std::{sync::Arc, time::Duration};

use super::{Attempt, Client, Dispatcher, attempt::Progress, timeout::timeout_at};
use crate::{
    clock::Instant,
    error::{Error, ErrorKind},
    guard::Guard,
    loss::LossReason,
    name::LockName,
    request::{Enqueue, Enqueued, Holder, Owner, Waiting},
    telemetry,
};

/// Pause before a waiter that has lost its queue position enqueues again. It doubles with each
/// failure, up to one second.
const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(20);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The outcome of an acquire with a time limit.
#[derive(Debug)]
#[non_exhaustive]
#[must_use]
pub enum Acquisition {
    /// The caller holds the lock.
    Acquired(Guard),
    /// Another client holds the lock: its holder, as far as the store can tell (clause A5).
    Busy(Holder),
}

impl Acquisition {
    /// Returns the guard if the lock was acquired.
    #[must_use]
    pub fn acquired(self) -> Option<Guard> {
        match self {
            Self::Acquired(guard) => Some(guard),
            Self::Busy(_) => None,
        }
    }
}

/// The parameters of an acquire.
#[derive(Debug)]
pub(crate) struct AcquireParams {
    pub(crate) name: LockName,
    pub(crate) owner: Owner,
    pub(crate) ttl: Duration,
    /// Whether to wait for the lock.
    pub(crate) wait: bool,
    /// When to give up, including the time for requests.
    pub(crate) until: Instant,
}

/// Removes the attempt from the store when it is dropped, unless it was disarmed.
#[derive(Debug)]
struct RemoveOnDrop<'a> {
    dispatcher: &'a Arc<Dispatcher>,
    attempt: &'a Arc<Attempt>,
    /// Whether the enqueue was answered.
    answered: bool,
    disarmed: bool,
}

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        if !self.disarmed {
            self.attempt.stop_waiting(self.dispatcher.now());
            self.dispatcher
                .remove_in_background(self.attempt, self.answered);
        }
    }
}

/// The outcome of one attempt.
enum AttemptOutcome {
    Acquired(Guard),
    Busy(Holder),
    /// The entry is gone; continue with a new attempt at the end of the queue (W5).
    Gone,
}

impl Client {
    /// Runs attempts until one is granted or the budget is spent.
    pub(crate) async fn acquire(
        &self,
        params: AcquireParams,
        on_wait: &mut (dyn FnMut(&Waiting) + Send),
    ) -> Result<Acquisition, Error> {
        let dispatcher = &self.0.dispatcher;
        let started = dispatcher.now();
        // Whether an attempt was in the queue, and the length of the next pause.
        let mut queued = false;
        let mut backoff = RETRY_BACKOFF_MIN;
        let outcome = loop {
            match self.run_attempt(&params, &mut queued, on_wait).await {
                Ok(AttemptOutcome::Acquired(guard)) => break Ok(Acquisition::Acquired(guard)),
                Ok(AttemptOutcome::Busy(holder)) => break Ok(Acquisition::Busy(holder)),
                Ok(AttemptOutcome::Gone) if dispatcher.now() >= params.until && !params.wait => {
                    break Err(Error::new(ErrorKind::Timeout, "acquiring")
                        .with_backend(self.0.info.scheme)
                        .with_lock(params.name.clone())
                        .with_detail(
                            "the store's answers take longer than the lease lasts; use a longer TTL",
                        ));
                }
                Ok(AttemptOutcome::Gone) if dispatcher.now() >= params.until => {
                    break Ok(Acquisition::Busy(Holder::default()));
                }
                Ok(AttemptOutcome::Gone) => {
                    tracing::debug!("the entry is gone from the queue; enqueueing anew");
                }
                // Once an attempt was in the queue, an outage of the store, or a restart that lost
                // the queue, does not end the acquire. An unanswered first enqueue does.
                Err(error)
                    if queued
                        && error.is_retryable()
                        && dispatcher.now() + backoff < params.until =>
                {
                    tracing::debug!(%error, "could not enqueue anew; trying again");
                    dispatcher
                        .clock
                        .sleep_until(dispatcher.now() + backoff)
                        .await;
                    backoff = (backoff * 2).min(RETRY_BACKOFF_MAX);
                }
                Err(error) => break Err(error),
            }
        };
        let label = match &outcome {
            Ok(Acquisition::Acquired(_)) => "acquired",
            Ok(Acquisition::Busy(_)) => "busy",
            Err(_) => "error",
        };
        telemetry::acquired(self.0.info.scheme, dispatcher.now().since(started), label);
        outcome
    }

    async fn run_attempt(
        &self,
        params: &AcquireParams,
        queued: &mut bool,
        on_wait: &mut (dyn FnMut(&Waiting) + Send),
    ) -> Result<AttemptOutcome, Error> {
        let dispatcher = &self.0.dispatcher;
        let attempt = dispatcher.register(params.name.clone(), params.ttl)?;
        let mut cleanup = RemoveOnDrop {
            dispatcher,
            attempt: &attempt,
            answered: false,
            disarmed: false,
        };
        let request = Enqueue::new(
            params.name.clone(),
            attempt.id,
            params.owner.clone(),
            params.ttl,
            params.wait,
        );
        let limit = params
            .until
            .min(dispatcher.now() + dispatcher.request_timeout);
        let call = self.0.releaser.backend.enqueue(request);
        let answer = timeout_at(&*dispatcher.clock, limit, call).await;
        let answer = answer.unwrap_or_else(|| Err(no_answer()));
        let answer = answer.map_err(|error| {
            if error.kind().is_without_effect() {
                cleanup.answered = true;
                cleanup.disarmed = true;
                dispatcher.forget(&attempt);
            }
            error
                .with_backend(self.0.info.scheme)
                .with_lock(params.name.clone())
        })?;
        cleanup.answered = true;
        match answer {
            Enqueued::Busy(holder) => {
                cleanup.disarmed = true;
                dispatcher.forget(&attempt);
                return Ok(AttemptOutcome::Busy(holder));
            }
            Enqueued::Gone => {
                cleanup.disarmed = true;
                dispatcher.forget(&attempt);
                return Ok(AttemptOutcome::Gone);
            }
            answer => dispatcher.on_enqueued(&attempt, answer),
        }
        let mut last_reported = None;
        loop {
            let changed = attempt.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match attempt.progress(dispatcher.now()) {
                Progress::Granted => {
                    cleanup.disarmed = true;
                    return Ok(AttemptOutcome::Acquired(Guard::new(
                        self.clone(),
                        Arc::clone(&attempt),
                    )));
                }
                Progress::Ended(LossReason::Closed) => {
                    return Err(Error::new(ErrorKind::Closed, "acquiring")
                        .with_backend(self.0.info.scheme)
                        .with_lock(params.name.clone())
                        .with_detail("the client was shut down during the wait"));
                }
                Progress::Ended(_) => return Ok(AttemptOutcome::Gone),
                Progress::Failed(error) => return Err(self.waiting_error(error, params)),
                Progress::Waiting(waiting) => {
                    *queued = true;
                    if last_reported.as_ref() != Some(&waiting) {
                        on_wait(&waiting);
                    }
                    if dispatcher.now() >= params.until {
                        // If reports have failed, the last known holder may be outdated.
                        return match attempt.last_renewal_error() {
                            Some(error) => Err(self.waiting_error(error, params)),
                            None => Ok(AttemptOutcome::Busy(waiting.holder.unwrap_or_default())),
                        };
                    }
                    last_reported = Some(waiting);
                }
            }
            let _ = timeout_at(&*dispatcher.clock, params.until, changed).await;
        }
    }
}

impl Client {
    /// Converts a report's error into an error of the waiting acquire. The attempt is at most in
    /// the queue and was never granted, so its outcome is not unknown.
    fn waiting_error(&self, error: Error, params: &AcquireParams) -> Error {
        let kind = match error.kind() {
            ErrorKind::OutcomeUnknown | ErrorKind::Timeout => ErrorKind::Unavailable,
            kind => kind,
        };
        let error = if error.detail().is_some() {
            error
        } else {
            error.with_detail("the store could not be asked for the waiter's position")
        };
        error
            .with_kind(kind)
            .with_operation("waiting for")
            .with_backend(self.0.info.scheme)
            .with_lock(params.name.clone())
    }
}

fn no_answer() -> Error {
    Error::new(ErrorKind::OutcomeUnknown, "acquiring").with_detail(
        "the store gave no answer in time; if it has granted the lock, the client releases the \
         grant",
    )
}
