//! The dispatcher: applies the driver's events, answers and due times to a client's attempts. It
//! sends nothing itself.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, mpsc};

use super::{
    attempt::{Attempt, InFlight},
    releaser::{Command, Removal},
    renewal_schedule::RenewalSchedule,
};
use crate::{
    backend::{BackendEvent, EventHandler, RenewalAnswers},
    capability::{Capabilities, TtlScope, WaitMode},
    clock::{Clock, Instant},
    error::{Error, ErrorKind},
    guard::Guard,
    lease::DriftBounds,
    request::{Enqueue, Enqueued, Renewal, Renewed},
    telemetry,
};

#[derive(Debug)]
pub(crate) struct Dispatcher {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) drift_bounds: DriftBounds,
    pub(crate) request_timeout: Duration,
    pub(super) scheme: &'static str,
    schedule: Mutex<RenewalSchedule>,
    capabilities: Mutex<Capabilities>,
    commands: mpsc::UnboundedSender<Command>,
    wakeup: Arc<Notify>,
    closed: AtomicBool,
    pub(super) reconnected: AtomicBool,
}

/// Renewals that were handed to the driver together. Those that are not answered when the batch is
/// dropped count as unknown.
#[derive(Debug)]
pub(super) struct Batch {
    dispatcher: Arc<Dispatcher>,
    unanswered: Mutex<Unanswered>,
    /// Whether the time limit of a request has passed; what was unanswered then counts as failed.
    overdue: AtomicBool,
}

/// The entries of a batch, in its order; `None` once answered.
type Unanswered = Vec<Option<(Arc<Attempt>, InFlight)>>;

impl Dispatcher {
    pub(super) fn new(
        scheme: &'static str,
        clock: Arc<dyn Clock>,
        drift_bounds: DriftBounds,
        request_timeout: Duration,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        Self {
            clock,
            drift_bounds,
            request_timeout,
            scheme,
            schedule: Mutex::default(),
            capabilities: Mutex::new(Capabilities::UNKNOWN),
            commands,
            wakeup: Arc::default(),
            closed: AtomicBool::new(false),
            reconnected: AtomicBool::new(false),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Returns the signal that wakes the renewer. It is also sent when the dispatcher is dropped.
    pub(super) fn wakeup(&self) -> Arc<Notify> {
        Arc::clone(&self.wakeup)
    }

    pub(super) fn set_capabilities(&self, capabilities: Capabilities) {
        *self
            .capabilities
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = capabilities;
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        *self
            .capabilities
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether an entry lives as long as this client, also beyond its TTL.
    pub(crate) fn is_pooled(&self) -> bool {
        self.capabilities().ttl.scope == TtlScope::Pooled
    }

    fn poll(&self) -> Option<Duration> {
        match self.capabilities().wait {
            WaitMode::Poll { every } => Some(every),
            WaitMode::Push => None,
        }
    }

    /// Registers an attempt before its first request is sent.
    pub(crate) fn register(&self, request: &Enqueue) -> Result<Arc<Attempt>, Error> {
        let attempt = Arc::new(Attempt::new(request, self.drift_bounds));
        let mut schedule = self.schedule();
        // Checked under the schedule's mutex: either a shutdown sees this attempt, or this sees the
        // shutdown.
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Closed, "acquiring")
                .with_backend(self.scheme)
                .with_lock(attempt.name.clone())
                .with_detail("the client was shut down before"));
        }
        schedule.insert(Arc::clone(&attempt));
        Ok(attempt)
    }

    /// Handles the answer to an attempt's enqueue.
    pub(crate) fn on_enqueued(&self, attempt: &Attempt, answer: Enqueued) {
        let now = self.now();
        match answer {
            Enqueued::Granted(grant) => attempt.on_granted(&grant, now),
            Enqueued::Waiting(answer) => attempt.on_waiting(answer, self.poll(), now),
            Enqueued::Busy(_) | Enqueued::Gone => return self.forget(attempt),
        }
        self.reschedule(attempt);
    }

    /// Makes an attempt due now.
    pub(crate) fn renew_now(&self, attempt: &Attempt) {
        attempt.renew_now(self.now());
        self.reschedule(attempt);
    }

    /// Updates an attempt whose deadline may have passed.
    pub(crate) fn check_deadline(&self, attempt: &Attempt) {
        attempt.tick(self.now());
        self.reschedule(attempt);
    }

    /// Forgets an attempt: from now on it is neither renewed nor reported.
    pub(crate) fn forget(&self, attempt: &Attempt) {
        self.schedule().remove(attempt.id);
    }

    /// Passes the removal of an attempt to the releaser. Never blocks; works on any thread.
    pub(crate) fn remove_in_background(&self, attempt: &Arc<Attempt>, outcome_known: bool) {
        self.forget(attempt);
        let removal = Removal::new(attempt, outcome_known);
        if self.commands.send(Command::Remove(removal)).is_err() {
            // The runtime is gone. The entry remains until its TTL expires (R3).
            telemetry::orphaned(self.scheme);
        }
    }

    /// Passes a guard whose minimum hold is not over to the releaser. Never blocks; works on any thread.
    pub(crate) fn release_later(&self, guard: Guard) {
        if let Err(mpsc::error::SendError(Command::Release(guard))) =
            self.commands.send(Command::Release(guard))
        {
            // The runtime is gone. The entry remains until its TTL expires (R3).
            guard.forget();
            telemetry::orphaned(self.scheme);
        }
    }

    pub(crate) fn send_command(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }

    /// Closes the dispatcher to new attempts, and returns the existing ones. Returns `None` if it
    /// was already closed.
    pub(super) fn close(&self) -> Option<Vec<Arc<Attempt>>> {
        let schedule = self.schedule();
        (!self.closed.swap(true, Ordering::SeqCst)).then(|| schedule.all())
    }

    /// Collects the renewals that are due, marks them as sent, and returns them with the time of
    /// the next wake-up.
    pub(super) fn collect_due(
        self: &Arc<Self>,
    ) -> (Option<(Vec<Renewal>, Batch)>, Option<Instant>) {
        let now = self.now();
        // Include what becomes due shortly afterwards, so that locks acquired at different times
        // converge on shared batches.
        let horizon = |attempt: &Attempt| now + attempt.ttl / 12;
        let candidates = self.schedule().take_due(now, horizon);
        let mut renewals = Vec::with_capacity(candidates.len());
        let mut attempts = Vec::with_capacity(candidates.len());
        for attempt in candidates {
            let due = attempt.take_due(now, horizon(&attempt));
            self.reschedule(&attempt);
            if let Some((renewal, in_flight)) = due {
                renewals.push(renewal);
                attempts.push(Some((attempt, in_flight)));
            }
        }
        let next_wakeup = self.schedule().set_next_wakeup(now);
        let batch = (!attempts.is_empty()).then(|| {
            (
                renewals,
                Batch {
                    dispatcher: Arc::clone(self),
                    unanswered: Mutex::new(attempts),
                    overdue: AtomicBool::new(false),
                },
            )
        });
        (batch, next_wakeup)
    }

    /// Schedules the next visit to an attempt that has changed, or ends its supervision.
    fn reschedule(&self, attempt: &Attempt) {
        let mut schedule = self.schedule();
        // Read the due time under the schedule's mutex: when two threads change an attempt at the
        // same time, the later one must not store an outdated time.
        let Some(due) = attempt.next_due() else {
            // Several threads can detect a loss at once; the first one removes the attempt.
            let removed = schedule.remove(attempt.id);
            drop(schedule);
            if let (Some(attempt), Some(reason)) = (removed, attempt.grant_lost()) {
                telemetry::lost(self.scheme, &attempt.name, reason);
                // The entry must not stay in the store although the grant is lost (L4).
                self.remove_in_background(&attempt, true);
            }
            return;
        };
        let wakes = schedule.set_due(attempt.id, due);
        drop(schedule);
        if wakes {
            self.wakeup.notify_one();
        }
    }

    fn schedule(&self) -> MutexGuard<'_, RenewalSchedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.schedule().len()
    }
}

impl EventHandler for Dispatcher {
    fn handle(&self, event: BackendEvent) {
        let now = self.now();
        let (attempt, event) = match event {
            BackendEvent::Granted(grant) => (grant.attempt, BackendEvent::Granted(grant)),
            BackendEvent::Recheck { attempt } | BackendEvent::Lost { attempt, .. } => {
                (attempt, event)
            }
            BackendEvent::Suspect => {
                let attempts = self.schedule().all();
                for attempt in attempts {
                    attempt.mark_suspect(now);
                    self.reschedule(&attempt);
                }
                return;
            }
            BackendEvent::Reconnected => {
                self.reconnected.store(true, Ordering::SeqCst);
                let attempts = self.schedule().all();
                for attempt in attempts {
                    attempt.renew_now(now);
                    self.reschedule(&attempt);
                }
                self.wakeup.notify_one();
                return;
            }
        };
        let Some(attempt) = self.schedule().get(attempt).map(Arc::clone) else {
            return;
        };
        match event {
            BackendEvent::Granted(grant) => attempt.on_pushed_grant(grant, now),
            BackendEvent::Recheck { .. } => attempt.renew_now(now),
            BackendEvent::Lost { reason, .. } => attempt.on_gone(reason, now),
            BackendEvent::Reconnected | BackendEvent::Suspect => return,
        }
        self.reschedule(&attempt);
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.wakeup.notify_one();
    }
}

impl Batch {
    /// Returns the receiver of the answers. It delivers only while the batch exists.
    pub(super) fn answers(self: &Arc<Self>) -> RenewalAnswers {
        let (batch, asked) = (Arc::downgrade(self), Arc::downgrade(self));
        let answers = RenewalAnswers::new(move |index, answer| {
            let Some(batch) = batch.upgrade() else {
                return;
            };
            let entry = {
                let mut unanswered = batch.unanswered();
                unanswered.get_mut(index).and_then(Option::take)
            };
            if let Some((attempt, in_flight)) = entry {
                batch.deliver(&attempt, in_flight, answer);
            }
        });
        answers.wanted_while(move |index| {
            let Some(batch) = asked.upgrade() else {
                return false;
            };
            let unanswered = batch.unanswered();
            let entry = unanswered.get(index).and_then(Option::as_ref);
            entry.is_some_and(|(attempt, _)| attempt.is_renewable())
        })
    }

    /// Handles the entries that are not answered yet as failed, without giving up their answers.
    pub(super) fn mark_overdue(&self) {
        let overdue: Vec<_> = self.unanswered().iter().flatten().cloned().collect();
        self.overdue.store(true, Ordering::SeqCst);
        for (attempt, in_flight) in overdue {
            let error = Renewed::no_answer();
            telemetry::renewal_failed(self.dispatcher.scheme, &attempt.name, &error);
            attempt.on_overdue(in_flight, error, self.dispatcher.now());
            self.dispatcher.reschedule(&attempt);
        }
    }

    fn unanswered(&self) -> MutexGuard<'_, Unanswered> {
        self.unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, attempt: &Attempt, in_flight: InFlight, answer: Renewed) {
        if let Renewed::Unknown(error) = &answer {
            telemetry::renewal_failed(self.dispatcher.scheme, &attempt.name, error);
        }
        self.apply(attempt, in_flight, answer);
    }

    fn apply(&self, attempt: &Attempt, in_flight: InFlight, answer: Renewed) {
        let poll = self.dispatcher.poll();
        attempt.on_answer(answer, in_flight, poll, self.dispatcher.now());
        self.dispatcher.reschedule(attempt);
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let unanswered = std::mem::take(&mut *self.unanswered());
        for (attempt, in_flight) in unanswered.into_iter().flatten() {
            let counted = self.overdue.load(Ordering::SeqCst);
            if !counted {
                let error = Renewed::no_answer();
                telemetry::renewal_failed(self.dispatcher.scheme, &attempt.name, &error);
            }
            self.apply(&attempt, in_flight, Renewed::unanswered());
        }
    }
}
