//! The lease: what a client may believe about its grant.
//!
//! A pure state machine beside [`queue`](crate::queue): it takes an [`Input`] and the time, and
//! returns what changed. It alone computes the deadline (clauses D1 and D2) and the time of the
//! next renewal (K1, L5).
//!
//! ```text
//!            proof                      renewal failed
//!   Held ───────────▶ Held      Held ─────────────────▶ Suspect ── proof ──▶ Held
//!     │                                                    │
//!     ├── the deadline comes, or definite evidence ────────┴──────▶ Lost      (final)
//!     └── the user releases ────────────▶ Releasing ── answered ──▶ Released  (final)
//! ```

mod drift_bounds;
#[cfg(test)]
mod tests;
mod waiter_lease;

use std::time::Duration;

pub use drift_bounds::DriftBounds;
pub use waiter_lease::WaiterLease;

use crate::{clock::Instant, loss::LossReason};

/// The phase of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Proved until the deadline; the last renewal succeeded.
    Held,
    /// Proved until the deadline, but a renewal or the connection failed.
    Suspect,
    /// The release is in progress. The guard no longer reports that it is held.
    Releasing,
    /// Lost, with the reason. Final.
    Lost(LossReason),
    /// Released. Final.
    Released,
}

impl Phase {
    /// Returns whether the lease is valid as long as its deadline has not passed.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Held | Self::Suspect)
    }

    /// Returns whether the phase is final.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Lost(_) | Self::Released)
    }
}

/// An input to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Input {
    /// The store keeps the grant for its whole TTL, counted from a moment not before `from`.
    Proved {
        /// The moment. The driver reads it before it hands the request that proves the grant to the
        /// store's client.
        from: Instant,
    },
    /// A renewal was handed to the driver.
    Sent,
    /// A renewal or the connection failed; the state of the grant in the store is unknown.
    RenewalFailed,
    /// There is definite evidence that the grant is gone.
    Gone(LossReason),
    /// The user releases the grant. No renewal may be sent from now on.
    Release,
    /// The release is over.
    Released,
    /// Time has passed.
    Tick,
}

/// The client's knowledge of one grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    phase: Phase,
    drift_bounds: DriftBounds,
    ttl: Duration,
    proved_from: Instant,
    next_renewal: Instant,
    /// A renewal was requested that must be sent after the request.
    renewal_requested: bool,
}

impl Lease {
    /// Creates a lease on a grant that is proved from `proved_from`.
    #[must_use]
    pub fn new(drift_bounds: DriftBounds, ttl: Duration, proved_from: Instant) -> Self {
        let next_renewal = proved_from + ttl / 3;
        Self {
            phase: Phase::Held,
            drift_bounds,
            ttl,
            proved_from,
            next_renewal,
            renewal_requested: false,
        }
    }

    /// Creates a lease on a pushed grant, which must be renewed at once (D4).
    #[must_use]
    pub fn pushed(
        drift_bounds: DriftBounds,
        ttl: Duration,
        proved_from: Instant,
        now: Instant,
    ) -> Self {
        Self {
            next_renewal: now,
            ..Self::new(drift_bounds, ttl, proved_from)
        }
    }

    /// Applies one input at `now`, and returns whether the phase changed.
    ///
    /// The deadline is checked first: a proof that arrives after the deadline does not revive the
    /// lease (L4).
    pub fn on(&mut self, input: Input, now: Instant) -> bool {
        let before = self.phase;
        if self.phase.is_live() && now >= self.valid_until() {
            self.phase = Phase::Lost(LossReason::Expired);
        }
        match (self.phase, input) {
            // Replies can be late and out of order; only a later proof counts (D2).
            (Phase::Held | Phase::Suspect, Input::Proved { from }) if from >= self.proved_from => {
                self.proved_from = from;
                // The proof of a shared session may already be old; renewing again without a pause
                // would not yield a newer one.
                self.next_renewal = (from + self.ttl / 3).max(now + self.ttl / 18);
                self.phase = Phase::Held;
            }
            (Phase::Held | Phase::Suspect, Input::Sent) => {
                // The next renewal does not wait for the answer to this one: two may be lost (L5),
                // also for a grant that was pushed on the basis of an old report.
                self.renewal_requested = false;
                let left = self.valid_until().since(now);
                self.next_renewal = now + (left / 3).clamp(self.ttl / 60, self.ttl / 6);
            }
            (Phase::Held | Phase::Suspect, Input::RenewalFailed) => {
                self.phase = Phase::Suspect;
                self.next_renewal = self.next_renewal.min(now + self.ttl / 18);
            }
            (Phase::Held | Phase::Suspect, Input::Gone(reason)) => {
                self.phase = Phase::Lost(reason);
            }
            (Phase::Held | Phase::Suspect, Input::Release) => self.phase = Phase::Releasing,
            (Phase::Releasing, Input::Released) => self.phase = Phase::Released,
            // After this client's own removal, evidence of a loss is an effect of that removal (L2).
            _ => {}
        }
        before != self.phase
    }

    /// Makes the next renewal due at once, whatever the answers to the renewals in flight, for
    /// example after a reconnect.
    pub const fn renew_now(&mut self) {
        self.renewal_requested = true;
    }

    /// Returns the phase according to the inputs so far. [`check`](Self::check) also considers the
    /// clock.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the phase at `now`.
    #[must_use]
    pub fn check(&self, now: Instant) -> Phase {
        if self.phase.is_live() && now >= self.valid_until() {
            return Phase::Lost(LossReason::Expired);
        }
        self.phase
    }

    /// Returns the moment at which the lease ends unless it is proved again (D1).
    #[must_use]
    pub fn valid_until(&self) -> Instant {
        self.drift_bounds.deadline(self.proved_from, self.ttl)
    }

    /// Returns when to send the next renewal; [`Instant::FAR_FUTURE`] once the lease is released or
    /// lost (K3).
    #[must_use]
    pub const fn next_renewal(&self) -> Instant {
        match (self.phase.is_live(), self.renewal_requested) {
            (false, _) => Instant::FAR_FUTURE,
            (true, true) => Instant::ORIGIN,
            (true, false) => self.next_renewal,
        }
    }

    /// Returns the granted TTL.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Returns the moment from which the store keeps the grant for one TTL.
    #[must_use]
    pub const fn proved_from(&self) -> Instant {
        self.proved_from
    }
}
