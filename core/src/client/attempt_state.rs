//! The state of an attempt, and how grants, losses and failures change it. Pure: `Attempt` adds the
//! mutex and the notification.

use crate::{
    clock::Instant,
    error::Error,
    lease::{DriftBounds, Input, Lease, Phase, WaiterLease},
    loss::LossReason,
    mode::Mode,
    request::{Grant, Waiting},
    token::FencingToken,
};

#[derive(Debug)]
pub(super) struct AttemptState {
    pub(super) stage: Stage,
    /// The mode in which the attempt holds or waits: shared once a downgrade may have been sent.
    pub(super) mode: Mode,
    /// Number of renewals that were handed to the driver and are not answered.
    pub(super) in_flight: u32,
    /// Number of renewals that were handed to the driver, in total.
    pub(super) sent: u64,
    /// Sequence number of the latest renewal that proved the grant.
    pub(super) confirmed: u64,
    /// Increases with every change that a task may wait for.
    pub(super) version: u64,
    /// Whether a caller is executing a release.
    pub(super) releasing: bool,
    /// Whether a copy of the enqueue was not answered. It may reach the store late, so a removal
    /// must also fence the attempt (A4).
    pub(super) enqueue_unanswered: bool,
    /// Whether a removal of this client was not answered and may have been executed.
    pub(super) removal_unanswered: bool,
    /// The loss that a release found; a repeated release returns it again.
    pub(super) not_held: Option<LossReason>,
    /// The error of the last renewal or report.
    pub(super) last_renewal_error: Option<Error>,
}

/// Where an attempt stands.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
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
    Granted {
        lease: Lease,
        token: FencingToken,
        /// The lowest token among the grants that were alive with this one.
        floor: FencingToken,
    },
    /// The waiter's entry is gone, or the acquire no longer waits.
    Ended(LossReason),
}

impl AttemptState {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            stage: Stage::Enqueuing {
                grant: None,
                lost: None,
                recheck: false,
            },
            mode,
            in_flight: 0,
            sent: 0,
            confirmed: 0,
            version: 0,
            releasing: false,
            enqueue_unanswered: false,
            removal_unanswered: false,
            not_held: None,
            last_renewal_error: None,
        }
    }

    /// Whether the store has confirmed the grant, or the place in the queue, by an answer to a
    /// request that was sent at `sent` or later.
    pub(super) fn is_proved_since(&self, sent: Instant) -> bool {
        match &self.stage {
            Stage::Granted { lease, .. } => lease.proved_from() >= sent,
            Stage::Waiting { waiter_lease, .. } => waiter_lease.reported_from() >= sent,
            _ => false,
        }
    }

    /// Everything whose change a task may wait for.
    pub(super) fn observable_state(&self) -> (u8, Option<Phase>, Option<Instant>, u64, u64) {
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

    /// Returns when the attempt must be visited again; `None` if no further event concerns it.
    pub(super) fn next_due(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Enqueuing { .. } => Some(Instant::FAR_FUTURE),
            Stage::Waiting { waiter_lease, .. } => Some(waiter_lease.next_report()),
            Stage::Granted { lease, .. } => {
                let due = lease.next_renewal().min(lease.valid_until());
                lease.phase().is_live().then_some(due)
            }
            Stage::Ended(_) => None,
        }
    }
}

/// Returns the stage of an attempt that was granted the lock. The floor may come from a message and is
/// untrusted: a floor above the token would make the resource refuse the grant itself.
pub(super) fn granted(lease: Lease, grant: &Grant) -> Stage {
    Stage::Granted {
        lease,
        token: grant.token,
        floor: grant.floor.min(grant.token),
    }
}

/// Applies a pushed grant, which counts by the rule of D4.
pub(super) fn apply_push(
    state: &mut AttemptState,
    drift_bounds: DriftBounds,
    grant: &Grant,
    now: Instant,
) {
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
        state.stage = granted(lease, grant);
    } else {
        // The attempt's entry may have expired as well (W4). Ask the store.
        waiter_lease.report_now();
    }
}

/// Applies a grant that an answer from the store proves.
pub(super) fn apply_grant(
    state: &mut AttemptState,
    drift_bounds: DriftBounds,
    grant: &Grant,
    now: Instant,
) {
    match &mut state.stage {
        Stage::Waiting { waiter_lease, .. } => {
            let Some(from) = grant.proved_from else {
                return apply_push(state, drift_bounds, grant, now);
            };
            let lease = Lease::new(drift_bounds, grant.ttl, from);
            if lease.check(now).is_live() {
                state.stage = granted(lease, grant);
            } else {
                // The proof is too old, which does not show that the entry is gone. Ask the store, after
                // a pause: the next proof of a shared session may be as old.
                waiter_lease.mark_suspect(now);
            }
        }
        // An attempt has one token (T3). A different token means that the store's state was rolled
        // back.
        Stage::Granted { lease, token, .. } if *token != grant.token => {
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

pub(super) fn apply_gone(state: &mut AttemptState, reason: LossReason, now: Instant) {
    match &mut state.stage {
        Stage::Enqueuing { lost, .. } => *lost = Some(reason),
        Stage::Waiting { .. } => state.stage = Stage::Ended(reason),
        Stage::Granted { lease, .. } => {
            lease.on(Input::Gone(reason), now);
        }
        Stage::Ended(_) => {}
    }
}

pub(super) fn apply_suspect(state: &mut AttemptState, now: Instant) {
    match &mut state.stage {
        Stage::Granted { lease, .. } => {
            lease.on(Input::RenewalFailed, now);
        }
        Stage::Waiting { waiter_lease, .. } => waiter_lease.mark_suspect(now),
        _ => {}
    }
}
