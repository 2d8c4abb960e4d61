//! The guard: the user's handle on a held lock.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing::{Instrument, field};

use crate::{
    client::{Attempt, Client, Command, Release, Removal},
    clock::Instant,
    error::{Error, ErrorKind},
    id::AttemptId,
    lease::Phase,
    loss::LossReason,
    mode::Mode,
    name::LockName,
    request::Removed,
    telemetry,
    token::FencingToken,
};

/// A lock that is held, as far as this client knows.
///
/// The client renews it in the background. Call [`check`](Self::check) before each effect, await
/// [`lost`](Self::lost) beside the work, and pass [`token`](Self::token) to the resource: only the
/// resource can reject a write that is in flight when the lock is lost.
///
/// Dropping the guard releases the lock in the background, also outside of a runtime. Only if the
/// store is on this machine, the drop releases the lock itself, and waits for that for up to 100 ms.
/// A program that ends right after a drop should use [`ClientBuilder::scope`], which waits for the
/// releases. [`release`](Self::release) reports whether the store has acknowledged the release.
///
/// [`ClientBuilder::scope`]: crate::ClientBuilder::scope
#[must_use = "dropping the guard releases the lock"]
pub struct Guard {
    pub(crate) client: Client,
    pub(crate) attempt: Arc<Attempt>,
    token: FencingToken,
    floor: FencingToken,
    ttl: Duration,
    /// The version of the attempt that the user has seen last.
    seen_version: AtomicU64,
    abandoned: bool,
}

/// The reason for which a guard does not hold the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotHeld {
    /// The lock was lost.
    Lost(LossReason),
    /// The lock was released, or is being released.
    Released,
}

impl fmt::Display for NotHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(reason) => write!(f, "the lock is lost: {reason}"),
            Self::Released => f.write_str("the lock is released"),
        }
    }
}

impl std::error::Error for NotHeld {}

impl Guard {
    pub(crate) fn new(
        client: Client,
        attempt: Arc<Attempt>,
        token: FencingToken,
        floor: FencingToken,
        ttl: Duration,
    ) -> Self {
        let seen_version = AtomicU64::new(attempt.version());
        Self {
            client,
            attempt,
            token,
            floor,
            ttl,
            seen_version,
            abandoned: false,
        }
    }

    /// Keeps the lock for this time from now on, lengthened by the drift between clocks (H1).
    pub(crate) fn hold_for(&self, time: Duration) {
        if !time.is_zero() {
            let dispatcher = &self.client.0.dispatcher;
            let time = dispatcher.drift_bounds.lengthened(time);
            self.attempt.hold_until(dispatcher.now() + time);
        }
    }

    /// Returns the lock's name.
    #[must_use]
    pub fn name(&self) -> &LockName {
        &self.attempt.name
    }

    /// Returns the fencing token of this grant. It does not change.
    #[must_use]
    pub const fn token(&self) -> FencingToken {
        self.token
    }

    /// Returns the lowest token among the grants that were alive when this one was made, itself
    /// included (clause M3). Pass it to the resource with the token. It does not change; the floor of
    /// an exclusive grant is its token.
    #[must_use]
    pub const fn floor(&self) -> FencingToken {
        self.floor
    }

    /// Returns what the guard shares the lock with.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.attempt.mode()
    }

    /// Returns the granted TTL. It differs from the requested one only with
    /// [`ClientBuilder::clamp_ttl`](crate::ClientBuilder::clamp_ttl).
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Returns the attempt's id, as the store records it.
    #[must_use]
    pub fn attempt(&self) -> AttemptId {
        self.attempt.id
    }

    /// Returns the phase of the lease now. Reads the clock.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.attempt.phase(self.client.0.dispatcher.now())
    }

    /// Returns the token if the lock is held at this moment. Reads the clock that advances while
    /// the machine is suspended. Cheap: call it before each effect.
    ///
    /// # Errors
    ///
    /// [`NotHeld`] if the lock is not held; then every later call returns it, too.
    pub fn check(&self) -> Result<FencingToken, NotHeld> {
        match self.phase() {
            Phase::Held | Phase::Suspect => Ok(self.token),
            Phase::Lost(reason) => {
                self.client.0.dispatcher.check_deadline(&self.attempt);
                Err(NotHeld::Lost(reason))
            }
            Phase::Releasing | Phase::Released => Err(NotHeld::Released),
        }
    }

    /// Returns the error of the last renewal while the lease is suspect, and after it was lost by
    /// its deadline. Returns `None` while renewals succeed, and if only the connection is known to
    /// be suspect.
    #[must_use]
    pub fn last_renewal_error(&self) -> Option<Error> {
        self.attempt.last_renewal_error()
    }

    /// Returns the time for which the lock stays held without another renewal; zero if it is not
    /// held.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let now = self.client.0.dispatcher.now();
        if self.attempt.phase(now).is_live() {
            self.valid_until().since(now)
        } else {
            Duration::ZERO
        }
    }

    /// Returns the moment until which the lock stays held without another renewal, on the client's
    /// clock. Renewals move it.
    #[must_use]
    pub fn valid_until(&self) -> Instant {
        self.attempt
            .grant()
            .map_or(Instant::ORIGIN, |(_, lease)| lease.valid_until())
    }

    /// Returns the time for which a [minimum hold](crate::Lock::min_hold) still keeps the lock; zero without
    /// one, and after the lock was lost or released.
    #[must_use]
    pub fn min_hold_left(&self) -> Duration {
        let now = self.client.0.dispatcher.now();
        if !self.attempt.phase(now).is_live() {
            return Duration::ZERO;
        }
        self.attempt.held_until().since(now)
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.client.0.dispatcher.request_timeout
    }

    /// Waits until the lock is lost and returns the reason. Completes at the deadline at the
    /// latest, whatever the store and the network do. Never completes after a release.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped and the method called again; no loss is missed.
    pub async fn lost(&self) -> LossReason {
        let dispatcher = &self.client.0.dispatcher;
        loop {
            let changed = self.attempt.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.attempt.phase(dispatcher.now()) {
                Phase::Lost(reason) => {
                    dispatcher.check_deadline(&self.attempt);
                    return reason;
                }
                // This timer is separate from the renewer's, so that the notice of a loss depends
                // on no other task.
                Phase::Held | Phase::Suspect => {
                    let deadline = self.valid_until();
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = dispatcher.clock.sleep_until(deadline) => {}
                    }
                }
                Phase::Releasing | Phase::Released => changed.await,
            }
        }
    }

    /// Waits until the guard ends in any way: the lock is lost, or its release begins. Returns which of
    /// the two it was. For a task that watches the guard beside the work.
    ///
    /// # Cancel safety
    ///
    /// As [`lost`](Self::lost).
    pub async fn ended(&self) -> NotHeld {
        let released = async {
            loop {
                let changed = self.attempt.changed();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Phase::Releasing | Phase::Released = self.phase() {
                    return;
                }
                changed.await;
            }
        };
        tokio::select! {
            biased;
            reason = self.lost() => NotHeld::Lost(reason),
            () = released => NotHeld::Released,
        }
    }

    /// Waits until the deadline or the phase has changed since the last time that this method
    /// completed, or since the guard was created. For callers that forward the deadline to another
    /// component.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped and the method called again; no change is missed.
    pub async fn deadline_changed(&self) {
        loop {
            let changed = self.attempt.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let version = self.attempt.version();
            if self.seen_version.swap(version, Ordering::SeqCst) != version {
                return;
            }
            changed.await;
        }
    }

    /// Renews now, and waits until the store has confirmed the grant in answer to a request sent
    /// after this call. Renewal is automatic; this method is for callers that need a fresh proof
    /// before an effect.
    ///
    /// # Errors
    ///
    /// [`NotHeld`] if the lock is lost or the deadline passes first.
    ///
    /// # Cancel safety
    ///
    /// The renewal continues.
    pub async fn renew(&self) -> Result<(), NotHeld> {
        let dispatcher = &self.client.0.dispatcher;
        let before = self.attempt.renewals_sent();
        dispatcher.renew_now(&self.attempt);
        let confirmed = async {
            loop {
                let changed = self.attempt.changed();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.attempt.is_confirmed_after(before) || !self.phase().is_live() {
                    return;
                }
                changed.await;
            }
        };
        tokio::select! {
            biased;
            () = confirmed => {}
            _ = self.lost() => {}
        }
        self.check().map(|_| ())
    }

    /// Releases the lock, and reports whether the store has acknowledged the release. Idempotent:
    /// another call returns the same answer, or repeats the removal after [`Release::Unknown`].
    ///
    /// Renewal stops before the removal is sent (clause K3): a renewal that is under way is waited
    /// for, up to one request time-out. If no answer to the removal arrives, it is retried, for one
    /// more request time-out in total. A [minimum hold](crate::Lock::min_hold) is waited for first; until
    /// then, the guard holds the lock.
    ///
    /// # Cancel safety
    ///
    /// The removal continues in the background. While a minimum hold is waited for, it has not begun, and
    /// the guard holds the lock until it is released again or dropped.
    pub async fn release(&self) -> Release {
        let span = tracing::debug_span!(
            "tenure.release",
            lock.name = %self.name().as_str().escape_debug(),
            lock.backend = self.client.info().scheme,
            lock.attempt = %self.attempt.id,
            lock.token = self.token.get(),
            outcome = field::Empty,
        );
        let release = async {
            self.wait_for_min_hold().await;
            self.release_once().await
        };
        let outcome = release.instrument(span.clone()).await;
        span.record("outcome", outcome.label());
        outcome
    }

    /// Waits until the minimum hold is over, or the lock is lost.
    async fn wait_for_min_hold(&self) {
        let dispatcher = &self.client.0.dispatcher;
        let until = self.attempt.held_until();
        if dispatcher.now() < until {
            tokio::select! {
                biased;
                _ = self.ended() => {}
                () = dispatcher.clock.sleep_until(until) => {}
            }
        }
    }

    async fn release_once(&self) -> Release {
        let dispatcher = &self.client.0.dispatcher;
        loop {
            let changed = self.attempt.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.attempt.begin_release(dispatcher.now()) {
                Ok(true) => break,
                Ok(false) => changed.await,
                Err(Phase::Lost(reason)) => {
                    dispatcher.check_deadline(&self.attempt);
                    return Release::NotHeld(reason);
                }
                Err(_) => {
                    return self
                        .attempt
                        .loss_found_at_release()
                        .map_or(Release::Released, Release::NotHeld);
                }
            }
        }
        dispatcher.forget(&self.attempt);
        self.client.0.releaser.releases.begin(&self.attempt);
        let mut release_on_drop = ReleaseOnDrop {
            guard: self,
            outcome: None,
        };
        let outcome = self.remove().await;
        release_on_drop.outcome = Some(outcome.clone());
        drop(release_on_drop);
        telemetry::released(self.client.info().scheme, outcome.label());
        outcome
    }

    async fn remove(&self) -> Release {
        const RELEASE_RETRY_DELAY: Duration = Duration::from_millis(20);
        let dispatcher = &self.client.0.dispatcher;
        let budget = dispatcher.request_timeout;
        self.attempt
            .wait_idle(&*dispatcher.clock, dispatcher.now() + budget)
            .await;
        let removal = Removal::new(&self.attempt, true);
        let limit = dispatcher.now() + budget;
        let mut unanswered = self.attempt.has_unanswered_removal();
        loop {
            let left = limit.since(dispatcher.now());
            let (answer, preceded) = self.client.0.releaser.try_remove(&removal, left).await;
            unanswered |= preceded;
            let error = match answer {
                Ok(removed) => return self.classify_removal(removed, unanswered),
                Err(error) => error,
            };
            unanswered |= !error.is_without_effect();
            let again = dispatcher.now() + RELEASE_RETRY_DELAY;
            if !error.is_retryable() || again >= limit {
                let kind = if unanswered {
                    ErrorKind::OutcomeUnknown
                } else {
                    error.kind()
                };
                let error = error.with_kind(kind).with_lock(self.name().clone());
                return Release::Unknown(error);
            }
            dispatcher.clock.sleep_until(again).await;
        }
    }

    /// Translates the store's answer into the outcome for the user (clause R1).
    fn classify_removal(&self, removed: Removed, unanswered: bool) -> Release {
        let in_time = self.client.0.dispatcher.now() < self.valid_until();
        match removed {
            Removed::AsHolder => Release::Released,
            // An earlier removal of this guard, which was not answered, removed the grant.
            Removed::Absent if unanswered && in_time => Release::Released,
            Removed::Absent if in_time => Release::NotHeld(LossReason::Evicted),
            Removed::Absent => Release::NotHeld(LossReason::Expired),
            Removed::AsWaiter => Release::NotHeld(LossReason::Displaced),
        }
    }

    /// Forgets the guard without releasing anything.
    pub(crate) fn forget(mut self) {
        self.abandoned = true;
    }

    /// Stops renewing without informing the store. The lock stays taken until its TTL expires.
    pub fn abandon(mut self) {
        let dispatcher = &self.client.0.dispatcher;
        self.abandoned = true;
        dispatcher.forget(&self.attempt);
        if dispatcher.is_pooled() {
            // The session of the grant lives on, so the grant does not expire by itself; remove it
            // after its TTL.
            let not_before = Some(dispatcher.now() + self.ttl);
            dispatcher.send_command(Command::Remove(Removal {
                not_before,
                ..Removal::new(&self.attempt, true)
            }));
        }
    }
}

/// Completes a release that has begun, also when its future is dropped.
struct ReleaseOnDrop<'a> {
    guard: &'a Guard,
    outcome: Option<Release>,
}

impl Drop for ReleaseOnDrop<'_> {
    fn drop(&mut self) {
        let dispatcher = &self.guard.client.0.dispatcher;
        self.guard
            .attempt
            .end_release(self.outcome.as_ref(), dispatcher.now());
        if matches!(self.outcome, None | Some(Release::Unknown(_))) {
            dispatcher.remove_in_background(&self.guard.attempt, true);
        } else {
            let releases = &self.guard.client.0.releaser.releases;
            releases.end(self.guard.attempt.id);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.abandoned {
            return;
        }
        let dispatcher = &self.client.0.dispatcher;
        let now = dispatcher.now();
        if now < self.attempt.held_until() && self.attempt.phase(now).is_live() {
            let seen_version = AtomicU64::new(0);
            let rest = Self {
                client: self.client.clone(),
                attempt: Arc::clone(&self.attempt),
                seen_version,
                ..*self
            };
            dispatcher.release_later(rest);
            return;
        }
        if let Ok(true) = self.attempt.begin_release(now) {
            dispatcher.forget(&self.attempt);
            let releaser = &self.client.0.releaser;
            releaser.releases.begin(&self.attempt);
            if self.client.info().needs_no_network && releaser.remove_at_once(&self.attempt) {
                releaser.releases.end(self.attempt.id);
            } else {
                dispatcher.remove_in_background(&self.attempt, true);
            }
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", &self.attempt.name)
            .field("token", &self.token)
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}
