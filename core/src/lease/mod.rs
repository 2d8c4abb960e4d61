//! What a client may believe about its grant: the lease.
//!
//! A pure machine beside [`queue`](crate::queue): it takes an [`Input`] and the time, and says
//! what changed. It owns the arithmetic of the deadline (clauses D1 and D2) and of when to renew
//! (K1, L5); nobody else in this project decides either.
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

/// What a lease is at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Proved until the deadline, and the last renewal succeeded.
    Held,
    /// Proved until the deadline, but a renewal failed.
    Suspect,
    /// The release is under way. The guard no longer says that it is held.
    Releasing,
    /// Gone, and why. Final.
    Lost(LossReason),
    /// Given back. Final.
    Released,
}

impl Phase {
    /// Whether the lease can be believed in, as long as its deadline has not come.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Held | Self::Suspect)
    }

    /// Whether nothing can change it any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Lost(_) | Self::Released)
    }
}

/// What happens to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Input {
    /// The store keeps the grant for its whole TTL from a moment not before this one.
    Proved {
        /// Read before the request that proves it was handed to the store's client.
        from: Instant,
    },
    /// A renewal was handed to the driver.
    Sent,
    /// A renewal failed, or the connection did; what the store holds is not known.
    RenewalFailed,
    /// Definite evidence that the grant is gone.
    Gone(LossReason),
    /// The user gives it back, and no renewal may be sent from now on.
    Release,
    /// The release is over.
    Released,
    /// Time has passed.
    Tick,
}

/// What a client may believe about one grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    phase: Phase,
    drift_bounds: DriftBounds,
    ttl: Duration,
    proved_from: Instant,
    next_renewal: Instant,
    /// Something happened that only a renewal sent from now on can tell of.
    renewal_requested: bool,
}

impl Lease {
    /// A lease on a grant that was proved from that moment on.
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

    /// A lease on a grant that came by push: to be renewed at once (D4).
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

    /// Takes one input at one moment, and returns whether the phase changed.
    ///
    /// The deadline is looked at before anything else: a proof that is handed in after it revives
    /// nothing (L4).
    pub fn on(&mut self, input: Input, now: Instant) -> bool {
        let before = self.phase;
        if self.phase.is_live() && now >= self.valid_until() {
            self.phase = Phase::Lost(LossReason::Expired);
        }
        match (self.phase, input) {
            // A reply may come late and out of order; only a later proof counts (D2).
            (Phase::Held | Phase::Suspect, Input::Proved { from }) if from >= self.proved_from => {
                self.proved_from = from;
                // The proof of a session that many locks share may be old already; asking again
                // without a pause would not make it newer.
                self.next_renewal = (from + self.ttl / 3).max(now + self.ttl / 18);
                self.phase = Phase::Held;
            }
            (Phase::Held | Phase::Suspect, Input::Sent) => {
                // The next one does not wait for this one's answer: two may be lost (L5), also
                // when a grant was pushed on the strength of an old report.
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
            // Evidence after the own removal was handed to the driver is its echo (L2).
            _ => {}
        }
        before != self.phase
    }

    /// Makes the next renewal due at once, whatever is answered to those under way, as after a
    /// connection came back.
    pub const fn renew_now(&mut self) {
        self.renewal_requested = true;
    }

    /// What it is, as far as inputs have told. [`check`](Self::check) also looks at the clock.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether it may be believed in now.
    #[must_use]
    pub fn check(&self, now: Instant) -> Phase {
        if self.phase.is_live() && now >= self.valid_until() {
            return Phase::Lost(LossReason::Expired);
        }
        self.phase
    }

    /// The moment at which it ends unless it is proved again (D1).
    #[must_use]
    pub fn valid_until(&self) -> Instant {
        self.drift_bounds.deadline(self.proved_from, self.ttl)
    }

    /// When to send the next renewal; never again once it is released or lost (K3).
    #[must_use]
    pub const fn next_renewal(&self) -> Instant {
        match (self.phase.is_live(), self.renewal_requested) {
            (false, _) => Instant::FAR_FUTURE,
            (true, true) => Instant::ORIGIN,
            (true, false) => self.next_renewal,
        }
    }

    /// The TTL that was granted.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The moment from which the store keeps the grant for one TTL.
    #[must_use]
    pub const fn proved_from(&self) -> Instant {
        self.proved_from
    }
}
