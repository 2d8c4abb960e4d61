//! Acquiring: a sequence of attempts within one time budget (clauses A1 to A5, W5).

use std::{sync::Arc, time::Duration};

use crate::{
    client::{Attempt, Client, Dispatcher, Stage, timeout_at},
    clock::Instant,
    error::{Error, ErrorKind},
    guard::Guard,
    id::AttemptId,
    loss::LossReason,
    name::LockName,
    request::{Enqueue, Enqueued, Holder, Waiting},
    telemetry,
};

/// Pause before a failed enqueue is repeated. It doubles with each failure, up to one second.
const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(20);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The outcome of an acquire with a time limit.
#[derive(Debug)]
#[non_exhaustive]
#[must_use]
pub enum Acquisition<G = Guard> {
    /// The caller holds the lock.
    Acquired(G),
    /// Another client holds the lock: its holder, as far as the store can tell (clause A5).
    Busy(Holder),
}

impl<G> Acquisition<G> {
    /// Returns the guard if the lock was acquired.
    #[must_use]
    pub fn acquired(self) -> Option<G> {
        match self {
            Self::Acquired(guard) => Some(guard),
            Self::Busy(_) => None,
        }
    }
}

/// Removes the attempt from the store when it is dropped, unless it was disarmed.
#[derive(Debug)]
struct RemoveOnDrop<'a> {
    dispatcher: &'a Arc<Dispatcher>,
    attempt: &'a Arc<Attempt>,
    /// Whether an enqueue was answered.
    answered: bool,
    disarmed: bool,
}

impl RemoveOnDrop<'_> {
    /// Forgets an attempt that the store does not have, unless a copy of its enqueue that was not
    /// answered may still arrive.
    fn disarm_if_absent(&mut self) {
        if !self.attempt.has_unanswered_enqueue() {
            self.disarmed = true;
            self.dispatcher.forget(self.attempt);
        }
    }
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

impl Client {
    /// Runs attempts until one is granted or the budget is spent.
    pub(crate) async fn acquire(
        &self,
        mut request: Enqueue,
        until: Instant,
        on_wait: &mut (dyn FnMut(&Waiting) + Send),
    ) -> Result<Acquisition, Error> {
        let dispatcher = &self.0.dispatcher;
        let started = dispatcher.now();
        let mut backoff = RETRY_BACKOFF_MIN;
        let outcome = loop {
            let attempt = self.run_attempt(request.clone(), until, &mut backoff, on_wait);
            match attempt.await {
                Ok(Some(acquisition)) => break Ok(acquisition),
                Ok(None) if dispatcher.now() >= until && !request.wait => {
                    break Err(Error::new(ErrorKind::Timeout, "acquiring")
                        .with_backend(self.0.info.scheme)
                        .with_lock(request.name.clone())
                        .with_detail(
                            "the store's answers take longer than the lease lasts; use a longer TTL",
                        ));
                }
                Ok(None) if dispatcher.now() >= until => {
                    break Ok(Acquisition::Busy(Holder::default()));
                }
                Ok(None) => tracing::debug!("the entry is gone from the queue; enqueueing anew"),
                Err(error) => break Err(error),
            }
            request.attempt = AttemptId::random()?;
        };
        let label = match &outcome {
            Ok(Acquisition::Acquired(_)) => "acquired",
            Ok(Acquisition::Busy(_)) => "busy",
            Err(_) => "error",
        };
        telemetry::acquired(self.0.info.scheme, dispatcher.now().since(started), label);
        outcome
    }

    /// Runs one attempt. Returns `None` if its entry is gone, so that the acquire goes on with a new
    /// attempt at the end of the queue (W5).
    async fn run_attempt(
        &self,
        request: Enqueue,
        until: Instant,
        backoff: &mut Duration,
        on_wait: &mut (dyn FnMut(&Waiting) + Send),
    ) -> Result<Option<Acquisition>, Error> {
        let dispatcher = &self.0.dispatcher;
        let attempt = dispatcher.register(&request)?;
        let mut cleanup = RemoveOnDrop {
            dispatcher,
            attempt: &attempt,
            answered: false,
            disarmed: false,
        };
        let answer = match self.enqueue(request, &attempt, until, backoff).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(None),
            Err(error) => {
                if error.is_without_effect() {
                    cleanup.disarm_if_absent();
                }
                return Err(error);
            }
        };
        cleanup.answered = true;
        match answer {
            Enqueued::Busy(holder) => {
                cleanup.disarm_if_absent();
                return Ok(Some(Acquisition::Busy(holder)));
            }
            Enqueued::Gone => {
                cleanup.disarm_if_absent();
                return Ok(None);
            }
            answer => dispatcher.on_enqueued(&attempt, answer),
        }
        let mut last_reported = None;
        loop {
            let changed = attempt.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match attempt.stage(dispatcher.now()) {
                Stage::Granted {
                    lease,
                    token,
                    floor,
                } => {
                    cleanup.disarmed = true;
                    let attempt = Arc::clone(&attempt);
                    let guard = Guard::new(self.clone(), attempt, token, floor, lease.ttl());
                    return Ok(Some(Acquisition::Acquired(guard)));
                }
                Stage::Enqueuing { .. } | Stage::Ended(LossReason::Closed) => {
                    return Err(self.closed_error(&attempt.name));
                }
                Stage::Ended(_) => return Ok(None),
                Stage::Waiting { answer, .. } => {
                    let failed = attempt.last_renewal_error();
                    // A retry cannot fix a revoked permission or unreadable state.
                    if let Some(error) = failed.as_ref().filter(|error| !error.is_retryable()) {
                        return Err(self.waiting_error(error.clone(), &attempt.name));
                    }
                    if last_reported.as_ref() != Some(&answer) {
                        on_wait(&answer);
                    }
                    if dispatcher.now() >= until {
                        // If reports have failed, the last known holder may be outdated.
                        return match failed {
                            Some(error) => Err(self.waiting_error(error, &attempt.name)),
                            None => {
                                let holder = answer.holder.unwrap_or_default();
                                Ok(Some(Acquisition::Busy(holder)))
                            }
                        };
                    }
                    last_reported = Some(answer);
                }
            }
            let _ = timeout_at(&*dispatcher.clock, until, changed).await;
        }
    }

    /// Sends the enqueue. For a waiter, sends it again if it failed or was not answered: connecting
    /// has shown that the store is there. A repeated enqueue keeps the place that an earlier copy
    /// got (A2). Returns `None` when that entry may lapse before the next copy arrives. The caller then
    /// begins a new attempt: a message about the lapsed entry must not end the next one.
    async fn enqueue(
        &self,
        request: Enqueue,
        attempt: &Attempt,
        until: Instant,
        backoff: &mut Duration,
    ) -> Result<Option<Enqueued>, Error> {
        let dispatcher = &self.0.dispatcher;
        let repeat_until = dispatcher.now() + request.ttl / 2;
        loop {
            let limit = until.min(dispatcher.now() + dispatcher.request_timeout);
            let call = self.0.backend.enqueue(request.clone());
            let answer = timeout_at(&*dispatcher.clock, limit, call).await;
            let error = match answer.unwrap_or_else(|| Err(no_answer())) {
                Ok(answer) => {
                    *backoff = RETRY_BACKOFF_MIN;
                    return Ok(Some(answer));
                }
                Err(error) => error
                    .with_backend(self.0.info.scheme)
                    .with_lock(attempt.name.clone()),
            };
            if !error.is_without_effect() {
                attempt.mark_enqueue_unanswered();
            }
            let again = dispatcher.now() + *backoff;
            if !request.wait || !error.is_retryable() || again >= until {
                return Err(error);
            }
            if *backoff == RETRY_BACKOFF_MIN {
                tracing::warn!("{error}; still waiting, and trying again");
            } else {
                tracing::debug!(%error, "could not enqueue; trying again");
            }
            dispatcher.clock.sleep_until(again).await;
            *backoff = (*backoff * 2).min(RETRY_BACKOFF_MAX);
            if let Stage::Ended(LossReason::Closed) = attempt.stage(dispatcher.now()) {
                return Err(self.closed_error(&attempt.name));
            }
            if attempt.has_unanswered_enqueue() && dispatcher.now() >= repeat_until {
                return Ok(None);
            }
        }
    }

    fn closed_error(&self, name: &LockName) -> Error {
        Error::new(ErrorKind::Closed, "acquiring")
            .with_backend(self.0.info.scheme)
            .with_lock(name.clone())
            .with_detail("the client was shut down during the wait")
    }

    /// Converts a report's error into an error of the waiting acquire. The attempt is at most in
    /// the queue and was never granted, so its outcome is not unknown.
    fn waiting_error(&self, error: Error, name: &LockName) -> Error {
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
            .with_lock(name.clone())
    }
}

fn no_answer() -> Error {
    Error::new(ErrorKind::OutcomeUnknown, "acquiring").with_detail(
        "the store gave no answer in time; if it has granted the lock, the client releases the \
         grant",
    )
}
