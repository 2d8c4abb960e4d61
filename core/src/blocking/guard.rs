//! The guard: the user's handle on a held lock.

use std::{fmt, sync::Arc, thread, time::Duration};

use super::{ClientThread, ended};
use crate::{
    client::Release, error::Error, guard::NotHeld, id::AttemptId, lease::Phase, loss::LossReason,
    mode::Mode, name::LockName, token::FencingToken,
};

/// A lock that is held, as far as this client knows. The client's thread renews it.
///
/// Call [`check`](Self::check) before each effect, and pass [`token`](Self::token) to the resource:
/// only the resource can reject a write that is in flight when the lock is lost.
///
/// Dropping the guard releases the lock, and waits for the store's answer for up to one request
/// time-out (clause R3). [`release`](Self::release) reports the answer.
#[must_use = "dropping the guard releases the lock"]
pub struct Guard {
    guard: Arc<crate::Guard>,
    thread: ClientThread,
}

impl Guard {
    pub(super) fn new(guard: crate::Guard, thread: ClientThread) -> Self {
        Self {
            guard: Arc::new(guard),
            thread,
        }
    }

    /// Returns the lock's name.
    #[must_use]
    pub fn name(&self) -> &LockName {
        self.guard.name()
    }

    /// Returns the fencing token of this grant. It does not change.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.guard.token()
    }

    /// Returns the lowest token among the grants that were alive when this one was made, as
    /// [`crate::Guard::floor`].
    #[must_use]
    pub fn floor(&self) -> FencingToken {
        self.guard.floor()
    }

    /// Returns what the guard shares the lock with.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.guard.mode()
    }

    /// Returns the granted TTL, as [`crate::Guard::ttl`].
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.guard.ttl()
    }

    /// Returns the attempt's id, as the store records it.
    #[must_use]
    pub fn attempt(&self) -> AttemptId {
        self.guard.attempt()
    }

    /// Returns the phase of the lease now. Reads the clock.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.guard.phase()
    }

    /// Returns the token if the lock is held at this moment. Reads the clock that advances while
    /// the machine is suspended. Cheap: call it before each effect.
    ///
    /// # Errors
    ///
    /// [`NotHeld`] if the lock is not held; then every later call returns it, too.
    pub fn check(&self) -> Result<FencingToken, NotHeld> {
        self.guard.check()
    }

    /// Returns the error of the last renewal, as [`crate::Guard::last_renewal_error`].
    #[must_use]
    pub fn last_renewal_error(&self) -> Option<Error> {
        self.guard.last_renewal_error()
    }

    /// Returns the time for which the lock stays held without another renewal; zero if it is not
    /// held.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.guard.remaining()
    }

    /// Renews now, and waits until the store has confirmed the grant in answer to a request sent
    /// after this call. Renewal is automatic; this method is for callers that need a fresh proof
    /// before an effect.
    ///
    /// # Errors
    ///
    /// [`NotHeld`] if the lock is lost or the deadline passes first.
    pub fn renew(&self) -> Result<(), NotHeld> {
        let guard = Arc::clone(&self.guard);
        let renewed = self.thread.wait(async move { guard.renew().await });
        renewed.unwrap_or(Err(NotHeld::Lost(LossReason::Closed)))
    }

    /// Runs `action` once if the lock is lost, at its deadline at the latest. Does not run it after a
    /// release. Returns at once; `action` runs on a thread of its own.
    pub fn on_lost(&self, action: impl FnOnce(LossReason) + Send + 'static) {
        let guard = Arc::clone(&self.guard);
        self.thread.0.spawn(async move {
            let ended = guard.ended().await;
            drop(guard);
            // The action may block, also where it is only dropped: it may own another guard. On a thread
            // of its own, because drivers use the blocking threads of the runtime.
            let act = move || match ended {
                NotHeld::Lost(reason) => action(reason),
                NotHeld::Released => drop(action),
            };
            let thread = thread::Builder::new().name("tenure-action".to_owned());
            if let Err(error) = thread.spawn(act) {
                tracing::error!(%error, "cannot start the thread of an action after a loss");
            }
        });
    }

    /// Turns an exclusive guard into a shared one, as [`crate::Guard::downgrade`].
    ///
    /// # Errors
    ///
    /// As [`crate::Guard::downgrade`].
    pub fn downgrade(self) -> Result<Self, Error> {
        let guard = Arc::clone(&self.guard);
        // An action after a loss may hold the guard, too.
        let downgrade = async move { guard.downgrade_in_place().await };
        self.thread.run("downgrading", downgrade)?;
        Ok(self)
    }

    /// Releases the lock, and reports whether the store has acknowledged the release, as
    /// [`crate::Guard::release`]. Blocks until a [minimum hold](crate::Lock::min_hold) is over, and then for up to
    /// two request time-outs.
    pub fn release(&self) -> Release {
        let guard = Arc::clone(&self.guard);
        let released = self.thread.wait(async move { guard.release().await });
        released.unwrap_or_else(|| Release::Unknown(ended("releasing")))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.guard.phase().is_live() {
            return;
        }
        let guard = Arc::clone(&self.guard);
        // A minimum hold outlasts the wait; the release follows it in the background.
        let limit = match guard.min_hold_left() {
            Duration::ZERO => guard.request_timeout(),
            _ => Duration::ZERO,
        };
        let released = self.thread.spawn(async move { guard.release().await });
        // The release continues in the background if it takes longer.
        let _ = released.recv_timeout(limit);
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.guard.fmt(f)
    }
}
