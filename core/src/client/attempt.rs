//! A client's state of one attempt, from before its first request until its end.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, futures::Notified};

use super::{
    attempt_state::{
        AttemptState, Stage, apply_gone, apply_grant, apply_push, apply_suspect, granted,
    },
    releaser::Release,
};
use crate::{
    clock::{Clock, Instant},
    error::Error,
    id::AttemptId,
    lease::{DriftBounds, Input, Lease, Phase, WaiterLease},
    loss::LossReason,
    mode::Mode,
    name::LockName,
    request::{Enqueue, Grant, Renewal, Renewed, Waiting},
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
    /// Until when the grant is kept, in nanoseconds since the clock's origin (H1).
    held_until: AtomicU64,
    state: Mutex<AttemptState>,
    changed: Notify,
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

impl Attempt {
    pub(crate) fn new(request: &Enqueue, drift_bounds: DriftBounds) -> Self {
        Self {
            name: request.name.clone(),
            id: request.attempt,
            ttl: request.ttl,
            drift_bounds,
            held_until: AtomicU64::new(0),
            state: Mutex::new(AttemptState::new(request.mode)),
            changed: Notify::new(),
        }
    }

    /// Keeps the grant until this moment.
    pub(crate) fn hold_until(&self, until: Instant) {
        let nanos = u64::try_from(until.since_origin().as_nanos()).unwrap_or(u64::MAX);
        self.held_until.store(nanos, Ordering::SeqCst);
    }

    /// Returns until when the grant is kept.
    pub(crate) fn held_until(&self) -> Instant {
        Instant::from_origin(Duration::from_nanos(self.held_until.load(Ordering::SeqCst)))
    }

    /// Returns a future that must be enabled before the state is read.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Notes that a copy of the enqueue was not answered.
    pub(crate) fn mark_enqueue_unanswered(&self) {
        self.lock().enqueue_unanswered = true;
    }

    /// Returns whether a copy of the enqueue was not answered.
    pub(crate) fn has_unanswered_enqueue(&self) -> bool {
        self.lock().enqueue_unanswered
    }

    /// Handles an enqueue that was answered with a grant.
    pub(crate) fn on_granted(&self, grant: &Grant, now: Instant) {
        self.update(now, |state, drift_bounds| {
            let Stage::Enqueuing { lost, .. } = state.stage else {
                return;
            };
            let from = grant.proved_from.unwrap_or(Instant::ORIGIN);
            let mut lease = Lease::new(drift_bounds, grant.ttl, from);
            if let Some(reason) = lost {
                lease.on(Input::Gone(reason), now);
            }
            state.stage = granted(lease, grant);
        })
    }

    /// Handles an enqueue that was answered with a queue position.
    pub(crate) fn on_waiting(&self, answer: Waiting, poll: Option<Duration>, now: Instant) {
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
    pub(crate) fn on_pushed_grant(&self, mut grant: Grant, now: Instant) {
        if grant.proved_from.is_none() {
            // Messages are untrusted: limit the TTL to the requested one.
            grant.ttl = grant.ttl.min(self.ttl);
        }
        self.update(now, |state, drift_bounds| match &mut state.stage {
            Stage::Enqueuing { grant: early, .. } => *early = Some(grant),
            _ => apply_push(state, drift_bounds, &grant, now),
        });
    }

    /// Handles definite evidence that the entry is gone.
    pub(crate) fn on_gone(&self, reason: LossReason, now: Instant) {
        self.update(now, |state, _| apply_gone(state, reason, now));
    }

    /// Handles a connection failure.
    pub(crate) fn mark_suspect(&self, now: Instant) {
        self.update(now, |state, _| apply_suspect(state, now));
    }

    /// Makes a renewal or report due now, even if one is in flight, because something may have
    /// changed.
    pub(crate) fn renew_now(&self, now: Instant) {
        self.update(now, |state, _| match &mut state.stage {
            Stage::Enqueuing { recheck, .. } => *recheck = true,
            Stage::Granted { lease, .. } => lease.renew_now(),
            Stage::Waiting { waiter_lease, .. } => waiter_lease.report_now(),
            Stage::Ended(_) => {}
        });
    }

    /// Updates the state to the current time.
    pub(crate) fn tick(&self, now: Instant) {
        self.update(now, |_, _| {})
    }

    /// Returns the renewal or report that is due by `horizon`, if any, and marks it as sent.
    pub(crate) fn take_due(&self, now: Instant, horizon: Instant) -> Option<(Renewal, InFlight)> {
        let mut due = None;
        self.update(now, |state, _| {
            let token = match &mut state.stage {
                Stage::Granted { lease, token, .. }
                    if lease.phase().is_live() && lease.next_renewal() <= horizon =>
                {
                    lease.on(Input::Sent, now);
                    Some(*token)
                }
                Stage::Waiting { waiter_lease, .. } if waiter_lease.next_report() <= horizon => {
                    waiter_lease.on_report_sent(now);
                    None
                }
                _ => return,
            };
            state.in_flight += 1;
            state.sent += 1;
            let in_flight = InFlight {
                sequence: state.sent,
                sent_at: now,
                as_holder: token.is_some(),
            };
            let renewal = Renewal::new(self.name.clone(), self.id, self.ttl, token);
            let renewal = renewal.with_mode(state.mode);
            due = Some((renewal, in_flight));
        });
        due
    }

    /// Returns whether a renewal or report of the attempt is still useful.
    pub(crate) fn is_renewable(&self) -> bool {
        match &self.lock().stage {
            Stage::Granted { lease, .. } => lease.phase().is_live(),
            Stage::Waiting { .. } => true,
            Stage::Enqueuing { .. } | Stage::Ended(_) => false,
        }
    }

    /// Handles the answer to a renewal or report.
    pub(crate) fn on_answer(
        &self,
        answer: Renewed,
        request: InFlight,
        poll: Option<Duration>,
        now: Instant,
    ) {
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

    /// Handles a renewal or report that is not answered in time and may still be answered.
    pub(crate) fn on_overdue(&self, request: InFlight, error: Error, now: Instant) {
        self.update(now, |state, _| {
            if !state.is_proved_since(request.sent_at) {
                state.last_renewal_error = Some(error);
                apply_suspect(state, now);
            }
        });
    }

    /// Returns when the attempt must be visited again; `None` if no further event concerns it.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.lock().next_due()
    }

    /// Returns where the attempt stands at `now`. A lost grant has ended.
    pub(crate) fn stage(&self, now: Instant) -> Stage {
        let stage = self.lock().stage.clone();
        match &stage {
            Stage::Granted { lease, .. } => match lease.check(now) {
                Phase::Lost(reason) => Stage::Ended(reason),
                _ => stage,
            },
            _ => stage,
        }
    }

    /// Returns why the grant was lost; `None` if it was not, or there was none.
    pub(crate) fn grant_lost(&self) -> Option<LossReason> {
        match self.grant()?.1.phase() {
            Phase::Lost(reason) => Some(reason),
            _ => None,
        }
    }

    /// Returns the error of the last renewal or report; `None` if it succeeded.
    pub(crate) fn last_renewal_error(&self) -> Option<Error> {
        self.lock().last_renewal_error.clone()
    }

    /// Marks that the acquire no longer waits for this attempt.
    pub(crate) fn stop_waiting(&self, now: Instant) {
        self.update(now, |state, _| {
            if !matches!(state.stage, Stage::Granted { .. }) {
                state.stage = Stage::Ended(LossReason::Closed);
            }
        });
    }

    /// Begins a release, or resumes one whose outcome is unknown. Returns `Err` with the phase if
    /// there is nothing to release, and `Ok(false)` if another call executes the release.
    pub(crate) fn begin_release(&self, now: Instant) -> Result<bool, Phase> {
        let mut outcome = Err(Phase::Released);
        self.update(now, |state, _| {
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

    /// Ends the release that [`begin_release`](Self::begin_release) began. `outcome` is `None` if it
    /// was cancelled.
    pub(crate) fn end_release(&self, outcome: Option<&Release>, now: Instant) {
        self.update(now, |state, _| {
            state.releasing = false;
            state.version += 1;
            state.not_held = match outcome {
                Some(Release::Released) => None,
                Some(Release::NotHeld(reason)) => Some(*reason),
                Some(Release::Unknown(_)) | None => {
                    state.removal_unanswered = true;
                    return;
                }
            };
            if let Stage::Granted { lease, .. } = &mut state.stage {
                lease.on(Input::Released, now);
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
        self.lock().removal_unanswered
    }

    /// Waits until no renewal is in flight, so that none can reach the store after a removal that
    /// is sent afterwards (K3). Waits until `limit` at the latest, and returns whether it is so.
    pub(crate) async fn wait_idle(&self, clock: &dyn Clock, limit: Instant) -> bool {
        loop {
            let changed = self.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let idle = self.lock().in_flight == 0;
            if idle || clock.now() >= limit {
                return idle;
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = clock.sleep_until(limit) => {}
            }
        }
    }

    /// Returns the mode in which the attempt holds or waits.
    pub(crate) fn mode(&self) -> Mode {
        self.lock().mode
    }

    /// Marks that the grant is shared, before the downgrade is sent (M4).
    pub(crate) fn mark_shared(&self) {
        self.lock().mode = Mode::Shared;
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

    /// Returns token and lease, if the attempt was granted.
    pub(crate) fn grant(&self) -> Option<(FencingToken, Lease)> {
        match &self.lock().stage {
            Stage::Granted { lease, token, .. } => Some((*token, lease.clone())),
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

    fn update(&self, now: Instant, change: impl FnOnce(&mut AttemptState, DriftBounds)) {
        let mut state = self.lock();
        let before = (state.observable_state(), state.in_flight);
        change(&mut state, self.drift_bounds);
        if let Stage::Granted { lease, .. } = &mut state.stage {
            lease.on(Input::Tick, now);
            if lease.phase() == Phase::Held {
                state.last_renewal_error = None;
            }
        }
        let after = (state.observable_state(), state.in_flight);
        let notify = before.0 != after.0 || after.1 < before.1;
        if before.0 != after.0 {
            state.version += 1;
        }
        drop(state);
        if notify {
            self.changed.notify_waiters();
        }
    }
}
