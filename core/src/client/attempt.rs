//! A client's state of one attempt, from before its first request until its end.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, futures::Notified};

use crate::{
    clock::{Clock, Instant},
    error::Error,
    id::AttemptId,
    lease::{DriftBounds, Input, Lease, Phase, WaiterLease},
    loss::LossReason,
    name::LockName,
    request::{Grant, Renewal, Renewed, Waiting},
    token::FencingToken,
};

/// One attempt. Shared by the acquire or guard, and by the renewer.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) name: LockName,
    pub(crate) id: AttemptId,
    /// The requested TTL.
    pub(crate) ttl: Duration,
    drift_bounds: DriftBounds,
    state: Mutex<AttemptState>,
    changed: Notify,
}

#[derive(Debug)]
struct AttemptState {
    stage: Stage,
    /// Number of renewals that were handed to the driver and are not answered.
    in_flight: u32,
    /// Number of renewals that were handed to the driver, in total.
    sent: u64,
    /// Sequence number of the latest renewal that proved the grant.
    confirmed: u64,
    /// Increases with every change that a task may wait for.
    version: u64,
    /// Whether a caller is executing a release.
    releasing: bool,
    /// Whether a removal of this client was not answered and may have been executed.
    unanswered: bool,
    /// The loss that a release found; a repeated release returns it again.
    not_held: Option<LossReason>,
    /// The error of the last renewal or report.
    last_renewal_error: Option<Error>,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The enqueue is not answered yet. Pushes can overtake its answer.
    Enqueuing {
        grant: Option<Grant>,
        lost: Option<LossReason>,
        recheck: bool,
    },
    /// In the queue.
    Waiting {
        waiter_lease: WaiterLease,
        answer: Box<Waiting>,
    },
    /// Granted. The lease tracks the state of the grant.
    Granted { lease: Lease, token: FencingToken },
    /// The waiter's entry is gone, or the acquire no longer waits.
    Ended(LossReason),
}

/// What the dispatcher must do after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum NextAction {
    /// Visit the attempt again at its [due time](Attempt::next_due).
    Reschedule,
    /// The grant was lost: forget the attempt, and remove it from the store nevertheless (L4).
    Lost(LossReason),
    /// No further event concerns the attempt: forget it.
    Forget,
}

/// The progress of an attempt, as its acquire sees it.
#[derive(Debug)]
pub(crate) enum Progress {
    Granted,
    Waiting(Box<Waiting>),
    /// A report failed with an error that a retry cannot fix, such as a revoked permission or
    /// unreadable state.
    Failed(Error),
    Ended(LossReason),
}

/// A renewal or report that is in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    /// Its sequence number, counted from one.
    sequence: u64,
    /// When it was handed to the driver.
    sent_at: Instant,
    /// Whether it was sent as a renewal. A push can turn a waiter into a holder while a report is
    /// in flight.
    as_holder: bool,
}

/// What must be sent for an attempt.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) renewal: Option<(Renewal, InFlight)>,
    pub(crate) next: NextAction,
}

impl Attempt {
    pub(crate) fn new(
        name: LockName,
        id: AttemptId,
        ttl: Duration,
        drift_bounds: DriftBounds,
    ) -> Self {
        Self {
            name,
            id,
            ttl,
            drift_bounds,
            state: Mutex::new(AttemptState {
                stage: Stage::Enqueuing {
                    grant: None,
                    lost: None,
                    recheck: false,
                },
                in_flight: 0,
                sent: 0,
                confirmed: 0,
                last_renewal_error: None,
                version: 0,
                releasing: false,
                unanswered: false,
                not_held: None,
            }),
            changed: Notify::new(),
        }
    }

    /// Returns a future that must be enabled before the state is read.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Handles an enqueue that was answered with a grant.
    pub(crate) fn on_granted(&self, grant: &Grant, now: Instant) -> NextAction {
        self.update(now, |state, drift_bounds| {
            let Stage::Enqueuing { lost, .. } = state.stage else {
                return;
            };
            let from = grant.proved_from.unwrap_or(Instant::ORIGIN);
            let mut lease = Lease::new(drift_bounds, grant.ttl, from);
            if let Some(reason) = lost {
                lease.on(Input::Gone(reason), now);
            }
            state.stage = Stage::Granted {
                lease,
                token: grant.token,
            };
        })
    }

    /// Handles an enqueue that was answered with a queue position.
    pub(crate) fn on_waiting(
        &self,
        answer: Waiting,
        poll: Option<Duration>,
        now: Instant,
    ) -> NextAction {
        let ttl = self.ttl;
        self.update(now, |state, drift_bounds| {
            let Stage::Enqueuing {
                grant,
                lost,
                recheck,
            } = &mut state.stage
            else {
                return;
            };
            let (grant, lost, recheck) = (grant.take(), *lost, *recheck);
            let mut waiter_lease = WaiterLease::new(ttl, &answer, poll, now);
            if recheck {
                waiter_lease.report_now();
            }
            state.stage = Stage::Waiting {
                waiter_lease,
                answer: Box::new(answer),
            };
            match (grant, lost) {
                (_, Some(reason)) => state.stage = Stage::Ended(reason),
                (Some(grant), None) => apply_push(state, drift_bounds, &grant, now),
                (None, None) => {}
            }
        })
    }

    /// Handles a grant that the driver reports as an event.
    pub(crate) fn on_pushed_grant(&self, mut grant: Grant, now: Instant) -> NextAction {
        if grant.proved_from.is_none() {
            // Messages are untrusted: limit the TTL to the requested one.
            grant.ttl = grant.ttl.min(self.ttl);
        }
        self.update(now, |state, drift_bounds| match &mut state.stage {
            Stage::Enqueuing { grant: early, .. } => *early = Some(grant),
            _ => apply_push(state, drift_bounds, &grant, now),
        })
    }

    /// Handles definite evidence that the entry is gone.
    pub(crate) fn on_gone(&self, reason: LossReason, now: Instant) -> NextAction {
        self.update(now, |state, _| apply_gone(state, reason, now))
    }

    /// Handles a connection failure.
    pub(crate) fn mark_suspect(&self, now: Instant) -> NextAction {
        self.update(now, |state, _| apply_suspect(state, now))
    }

    /// Makes a renewal or report due now, even if one is in flight, because something may have
    /// changed.
    pub(crate) fn renew_now(&self, now: Instant) -> NextAction {
        self.update(now, |state, _| match &mut state.stage {
            Stage::Enqueuing { recheck, .. } => *recheck = true,
            Stage::Granted { lease, .. } => lease.renew_now(),
            Stage::Waiting { waiter_lease, .. } => waiter_lease.report_now(),
            Stage::Ended(_) => {}
        })
    }

    /// Updates the state to the current time.
    pub(crate) fn tick(&self, now: Instant) -> NextAction {
        self.update(now, |_, _| {})
    }

    /// Returns the renewal or report that is due by `horizon`, if any, and marks it as sent.
    pub(crate) fn take_due(&self, now: Instant, horizon: Instant) -> Due {
        let mut renewal = None;
        let next = self.update(now, |state, _| {
            let sequence = state.sent + 1;
            let entry = |token: Option<_>| {
                let as_holder = token.is_some();
                let renewal = Renewal::new(self.name.clone(), self.id, self.ttl, token);
                let in_flight = InFlight {
                    sequence,
                    sent_at: now,
                    as_holder,
                };
                (renewal, in_flight)
            };
            match &mut state.stage {
                Stage::Granted { lease, token }
                    if lease.phase().is_live() && lease.next_renewal() <= horizon =>
                {
                    lease.on(Input::Sent, now);
                    state.in_flight += 1;
                    state.sent = sequence;
                    renewal = Some(entry(Some(*token)));
                }
                Stage::Waiting { waiter_lease, .. } if waiter_lease.next_report() <= horizon => {
                    waiter_lease.on_report_sent(now);
                    state.in_flight += 1;
                    state.sent = sequence;
                    renewal = Some(entry(None));
                }
                _ => {}
            }
        });
        Due { renewal, next }
    }

    /// Handles the answer to a renewal or report.
    pub(crate) fn on_answer(
        &self,
        answer: Renewed,
        request: InFlight,
        poll: Option<Duration>,
        now: Instant,
    ) -> NextAction {
        self.update(now, |state, drift_bounds| {
            state.in_flight = state.in_flight.saturating_sub(1);
            match answer {
                Renewed::Gone(reason) => apply_gone(state, reason, now),
                Renewed::Granted(grant) => {
                    state.confirmed = state.confirmed.max(request.sequence);
                    apply_grant(state, drift_bounds, &grant, now);
                }
                Renewed::Proved { from } => {
                    state.confirmed = state.confirmed.max(request.sequence);
                    if let Stage::Granted { lease, .. } = &mut state.stage {
                        lease.on(Input::Proved { from }, now);
                    }
                }
                // The answer to a later renewal may have arrived before this one.
                Renewed::Unknown(_) if state.is_proved_since(request.sent_at) => {}
                Renewed::Unknown(error) => {
                    if matches!(state.stage, Stage::Waiting { .. }) {
                        state.version += u64::from(!error.is_retryable());
                    }
                    state.last_renewal_error = Some(error);
                    apply_suspect(state, now);
                }
                Renewed::Waiting(answer) => match &mut state.stage {
                    Stage::Waiting {
                        waiter_lease,
                        answer: last,
                    } => {
                        state.last_renewal_error = None;
                        waiter_lease.on_waiting(&answer, poll, now);
                        **last = answer;
                    }
                    // The store reports a holder as a waiter: its state was rolled back, and the
                    // grant is gone.
                    Stage::Granted { .. } if request.as_holder => {
                        apply_gone(state, LossReason::Displaced, now);
                    }
                    _ => {}
                },
            }
        })
    }

    /// Returns when the attempt must be visited again.
    pub(crate) fn next_due(&self) -> Instant {
        self.lock().next_due()
    }

    /// Returns the progress for the acquire that waits for this attempt.
    pub(crate) fn progress(&self, now: Instant) -> Progress {
        let state = self.lock();
        match (&state.stage, &state.last_renewal_error) {
            (Stage::Granted { lease, .. }, _) => match lease.check(now) {
                Phase::Lost(reason) => Progress::Ended(reason),
                _ => Progress::Granted,
            },
            (Stage::Waiting { .. }, Some(error)) if !error.is_retryable() => {
                Progress::Failed(error.clone())
            }
            (Stage::Waiting { answer, .. }, _) => Progress::Waiting(answer.clone()),
            (Stage::Enqueuing { .. }, _) => Progress::Ended(LossReason::Closed),
            (Stage::Ended(reason), _) => Progress::Ended(*reason),
        }
    }

    /// Returns the error of the last renewal or report; `None` if it succeeded.
    pub(crate) fn last_renewal_error(&self) -> Option<Error> {
        self.lock().last_renewal_error.clone()
    }

    /// Marks that the acquire no longer waits for this attempt.
    pub(crate) fn stop_waiting(&self, now: Instant) {
        let _ = self.update(now, |state, _| {
            if !matches!(state.stage, Stage::Granted { .. }) {
                state.stage = Stage::Ended(LossReason::Closed);
            }
        });
    }

    /// Begins a release, or resumes one whose outcome is unknown. Returns `Err` with the phase if
    /// there is nothing to release, and `Ok(false)` if another call executes the release.
    pub(crate) fn begin_release(&self, now: Instant) -> Result<bool, Phase> {
        let mut outcome = Err(Phase::Released);
        let _ = self.update(now, |state, _| {
            let Stage::Granted { lease, .. } = &mut state.stage else {
                return;
            };
            lease.on(Input::Release, now);
            outcome = match lease.phase() {
                Phase::Releasing if state.releasing => Ok(false),
                Phase::Releasing => {
                    state.releasing = true;
                    Ok(true)
                }
                ended => Err(ended),
            };
        });
        outcome
    }

    /// Ends the release that [`begin_release`](Self::begin_release) began. `answer` is the store's
    /// answer, `Err` if the grant was already gone, and `None` if the store did not answer.
    pub(crate) fn end_release(&self, answer: Option<Result<(), LossReason>>, now: Instant) {
        let _ = self.update(now, |state, _| {
            state.releasing = false;
            state.version += 1;
            match (answer, &mut state.stage) {
                (None, _) => state.unanswered = true,
                (Some(outcome), Stage::Granted { lease, .. }) => {
                    state.not_held = outcome.err();
                    lease.on(Input::Released, now);
                }
                _ => {}
            }
        });
    }

    /// Returns the loss that an earlier release found.
    pub(crate) fn loss_found_at_release(&self) -> Option<LossReason> {
        self.lock().not_held
    }

    /// Returns whether an earlier removal was not answered. An absent entry was then removed by
    /// that removal (R1).
    pub(crate) fn has_unanswered_removal(&self) -> bool {
        self.lock().unanswered
    }

    /// Waits until no renewal is in flight, so that none can reach the store after a removal that
    /// is sent afterwards (K3). Waits until `limit` at the latest.
    pub(crate) async fn wait_idle(&self, clock: &dyn Clock, limit: Instant) {
        loop {
            let changed = self.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().in_flight == 0 || clock.now() >= limit {
                return;
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = clock.sleep_until(limit) => {}
            }
        }
    }

    /// Returns the number of renewals that were handed to the driver so far.
    pub(crate) fn renewals_sent(&self) -> u64 {
        self.lock().sent
    }

    /// Returns whether the store has confirmed the grant in answer to a renewal after the first
    /// `sent` ones.
    pub(crate) fn is_confirmed_after(&self, sent: u64) -> bool {
        self.lock().confirmed > sent
    }

    /// Returns the phase of the lease at `now`.
    pub(crate) fn phase(&self, now: Instant) -> Phase {
        match &self.lock().stage {
            Stage::Granted { lease, .. } => lease.check(now),
            Stage::Ended(reason) => Phase::Lost(*reason),
            Stage::Enqueuing { .. } | Stage::Waiting { .. } => Phase::Lost(LossReason::Closed),
        }
    }

    /// Returns token, granted TTL and deadline, if the attempt was granted.
    pub(crate) fn grant(&self) -> Option<(FencingToken, Duration, Instant)> {
        match &self.lock().stage {
            Stage::Granted { lease, token } => Some((*token, lease.ttl(), lease.valid_until())),
            _ => None,
        }
    }

    /// Increases with every change that a task may wait for.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    fn lock(&self) -> MutexGuard<'_, AttemptState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(
        &self,
        now: Instant,
        change: impl FnOnce(&mut AttemptState, DriftBounds),
    ) -> NextAction {
        let mut state = self.lock();
        let before = (state.observable_state(), state.in_flight);
        change(&mut state, self.drift_bounds);
        if let Stage::Granted { lease, .. } = &mut state.stage {
            lease.on(Input::Tick, now);
            if lease.phase() == Phase::Held {
                state.last_renewal_error = None;
            }
        }
        let next = state.next_action();
        let after = (state.observable_state(), state.in_flight);
        let notify = before.0 != after.0 || after.1 < before.1;
        if before.0 != after.0 {
            state.version += 1;
        }
        drop(state);
        if notify {
            self.changed.notify_waiters();
        }
        next
    }
}

impl AttemptState {
    fn is_proved_since(&self, sent: Instant) -> bool {
        match &self.stage {
            Stage::Granted { lease, .. } => lease.proved_from() >= sent,
            _ => false,
        }
    }

    /// Everything whose change a task may wait for.
    fn observable_state(&self) -> (u8, Option<Phase>, Option<Instant>, u64, u64) {
        let confirmed = self.confirmed;
        match &self.stage {
            Stage::Enqueuing { .. } => (0, None, None, self.version, confirmed),
            Stage::Waiting {
                waiter_lease,
                answer,
            } => (
                1,
                None,
                Some(waiter_lease.next_report()),
                answer.as_of.get(),
                confirmed,
            ),
            Stage::Granted { lease, .. } => {
                let deadline = Some(lease.valid_until());
                (2, Some(lease.phase()), deadline, self.version, confirmed)
            }
            Stage::Ended(reason) => (3, Some(Phase::Lost(*reason)), None, self.version, confirmed),
        }
    }

    fn next_action(&self) -> NextAction {
        match &self.stage {
            Stage::Enqueuing { .. } | Stage::Waiting { .. } => NextAction::Reschedule,
            Stage::Granted { lease, .. } => match lease.phase() {
                Phase::Held | Phase::Suspect => NextAction::Reschedule,
                Phase::Lost(reason) => NextAction::Lost(reason),
                Phase::Releasing | Phase::Released => NextAction::Forget,
            },
            Stage::Ended(_) => NextAction::Forget,
        }
    }

    fn next_due(&self) -> Instant {
        match &self.stage {
            Stage::Waiting { waiter_lease, .. } => waiter_lease.next_report(),
            Stage::Granted { lease, .. } if lease.phase().is_live() => {
                lease.next_renewal().min(lease.valid_until())
            }
            _ => Instant::FAR_FUTURE,
        }
    }
}

/// Applies a pushed grant, which counts by the rule of D4.
fn apply_push(state: &mut AttemptState, drift_bounds: DriftBounds, grant: &Grant, now: Instant) {
    if grant.proved_from.is_some() {
        return apply_grant(state, drift_bounds, grant, now);
    }
    let Stage::Waiting { waiter_lease, .. } = &mut state.stage else {
        return;
    };
    let Some(from) = waiter_lease.accept_push(grant.as_of) else {
        return;
    };
    let lease = Lease::pushed(drift_bounds, grant.ttl, from, now);
    if lease.check(now).is_live() {
        state.stage = Stage::Granted {
            lease,
            token: grant.token,
        };
    } else {
        // The attempt's entry may have expired as well (W4). Ask the store.
        waiter_lease.report_now();
    }
}

/// Applies a grant that an answer from the store proves.
fn apply_grant(state: &mut AttemptState, drift_bounds: DriftBounds, grant: &Grant, now: Instant) {
    match &mut state.stage {
        Stage::Waiting { .. } => {
            let Some(from) = grant.proved_from else {
                return apply_push(state, drift_bounds, grant, now);
            };
            let lease = Lease::new(drift_bounds, grant.ttl, from);
            state.stage = Stage::Granted {
                lease,
                token: grant.token,
            };
        }
        // An attempt has one token (T3). A different token means that the store's state was rolled
        // back.
        Stage::Granted { lease, token } if *token != grant.token => {
            lease.on(Input::Gone(LossReason::Displaced), now);
        }
        Stage::Granted { lease, .. } => {
            if let Some(from) = grant.proved_from {
                lease.on(Input::Proved { from }, now);
            }
        }
        _ => {}
    }
}

fn apply_gone(state: &mut AttemptState, reason: LossReason, now: Instant) {
    match &mut state.stage {
        Stage::Enqueuing { lost, .. } => *lost = Some(reason),
        Stage::Waiting { .. } => state.stage = Stage::Ended(reason),
        Stage::Granted { lease, .. } => {
            lease.on(Input::Gone(reason), now);
        }
        Stage::Ended(_) => {}
    }
}

fn apply_suspect(state: &mut AttemptState, now: Instant) {
    match &mut state.stage {
        Stage::Granted { lease, .. } => {
            lease.on(Input::RenewalFailed, now);
        }
        Stage::Waiting { waiter_lease, .. } => waiter_lease.mark_suspect(now),
        _ => {}
    }
}
