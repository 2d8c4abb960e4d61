//! The guard: what a user holds while the lock is held.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing::Instrument;

use crate::{
    client::{Attempt, Client, Command, Removal},
    clock::Instant,
    error::{Error, ErrorKind},
    id::AttemptId,
    lease::Phase,
    loss::LossReason,
    name::LockName,
    request::Removed,
    telemetry,
    token::FencingToken,
};

/// A lock that is held, as far as this client can know.
///
/// It is renewed in the background. Ask [`check`](Self::check) before each effect, watch
/// [`lost`](Self::lost) beside the work, and hand [`token`](Self::token) to the resource: only the
/// resource can refuse a write that was under way when the lock was lost.
///
/// Dropping it releases the lock in the background, without blocking, also outside of a runtime;
/// [`release`](Self::release) tells whether the store has acknowledged it.
#[must_use = "dropping the guard releases the lock"]
pub struct Guard {
    client: Client,
    attempt: Arc<Attempt>,
    token: FencingToken,
    ttl: Duration,
    /// The slot's version that the user has seen last.
    seen_version: AtomicU64,
    abandoned: bool,
}

/// Why a guard does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotHeld {
    /// It was lost.
    Lost(LossReason),
    /// It was released, or is being released.
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

/// What a release came to (clause R1).
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use]
pub enum Release {
    /// There was nothing to release any more, and why.
    NotHeld(LossReason),
    /// The store has acknowledged it.
    Released,
    /// The store gave no answer. The removal is repeated in the background; at the latest the TTL
    /// frees the lock.
    Unknown(Error),
}

impl Guard {
    pub(crate) fn new(client: Client, attempt: Arc<Attempt>) -> Self {
        let (token, ttl, _) =
            attempt
                .grant()
                .unwrap_or((FencingToken::new(0), Duration::ZERO, Instant::ORIGIN));
        let seen_version = AtomicU64::new(attempt.version());
        Self {
            client,
            attempt,
            token,
            ttl,
            seen_version,
            abandoned: false,
        }
    }

    /// The lock's name.
    #[must_use]
    pub fn name(&self) -> &LockName {
        &self.attempt.name
    }

    /// The fencing token of this grant. It does not change.
    #[must_use]
    pub const fn token(&self) -> FencingToken {
        self.token
    }

    /// The TTL that was granted; not shorter than the one that was asked for.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The attempt's id, as the store knows it.
    #[must_use]
    pub fn attempt(&self) -> AttemptId {
        self.attempt.id
    }

    /// What the lease is now. Reads the clock.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.attempt.phase(self.client.0.dispatcher.now())
    }

    /// The token, if the lock is held at this moment. Reads the clock that runs on while the
    /// machine is suspended. Cheap: call it before each effect.
    ///
    /// # Errors
    ///
    /// [`NotHeld`], from then on for ever.
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

    /// Why the last renewal came to nothing, while the lease is suspect and after it was lost by its
    /// deadline: what an operator has to know. `None` while renewals succeed, and where nothing is
    /// known but that the connection is in doubt.
    #[must_use]
    pub fn last_renewal_error(&self) -> Option<Error> {
        self.attempt.last_renewal_error()
    }

    /// How long it may be believed in without a further renewal; zero once it is not held.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let now = self.client.0.dispatcher.now();
        if self.attempt.phase(now).is_live() {
            self.valid_until().since(now)
        } else {
            Duration::ZERO
        }
    }

    /// The moment until which it may be believed in, on the client's clock. Renewals move it.
    #[must_use]
    pub fn valid_until(&self) -> Instant {
        self.attempt
            .grant()
            .map_or(Instant::ORIGIN, |(.., valid_until)| valid_until)
    }

    /// Returns when the lock is lost, and why: at its deadline at the latest, whatever the store
    /// and the network do. Never returns once it was released.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped and called again; a loss is never missed.
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
                // Beside the keeper's own alarm: this does not rest on any other task.
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

    /// Returns when the deadline or the phase has changed since the last time that this returned,
    /// or since the guard was given. For whoever hands the deadline on to somebody else.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped and called again; a change is never missed.
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

    /// Renews now, and returns when the store has confirmed the grant in answer to a request sent
    /// after this call. Renewal needs no help; this is for whoever wants fresh proof before an
    /// effect.
    ///
    /// # Errors
    ///
    /// [`NotHeld`] when the lock turns out to be lost, or the deadline comes first.
    ///
    /// # Cancel safety
    ///
    /// The renewal goes on.
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

    /// Gives the lock back, and says whether the store has acknowledged it. Idempotent: calling it
    /// again repeats the answer, or after [`Release::Unknown`] the removal.
    ///
    /// Renewal has stopped before the removal is sent (clause K3). It tries again when an answer
    /// does not come, for one request time-out in all.
    ///
    /// # Cancel safety
    ///
    /// The removal goes on in the background.
    pub async fn release(&self) -> Release {
        let span = tracing::debug_span!(
            "tenure.release",
            lock.name = %self.name().as_str().escape_debug(),
            lock.token = self.token.get(),
        );
        self.release_once().instrument(span).await
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
        let mut release_on_drop = ReleaseOnDrop {
            guard: self,
            answer: None,
        };
        let outcome = self.remove().await;
        release_on_drop.answer = match &outcome {
            Release::Released => Some(Ok(())),
            Release::NotHeld(reason) => Some(Err(*reason)),
            Release::Unknown(_) => None,
        };
        drop(release_on_drop);
        telemetry::released(
            self.client.info().scheme,
            match outcome {
                Release::Released => "released",
                Release::NotHeld(_) => "not_held",
                Release::Unknown(_) => "unknown",
            },
        );
        outcome
    }

    async fn remove(&self) -> Release {
        const RELEASE_RETRY_DELAY: Duration = Duration::from_millis(20);
        let dispatcher = &self.client.0.dispatcher;
        let budget = dispatcher.request_timeout;
        self.attempt
            .wait_idle(&*dispatcher.clock, dispatcher.now() + budget)
            .await;
        let removal = self.removal();
        let limit = dispatcher.now() + budget;
        let mut unanswered = self.attempt.has_unanswered_removal();
        loop {
            // Half of it, so that one lost answer leaves time for a second try.
            let try_limit = limit.since(dispatcher.now()).min(budget / 2);
            let error = match self.client.0.releaser.try_remove(&removal, try_limit).await {
                Ok(removed) => return self.classify_removal(removed, unanswered),
                Err(error) => error,
            };
            unanswered |= !error.kind().is_without_effect();
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

    /// What the store's answer means for the user (clause R1).
    fn classify_removal(&self, removed: Removed, unanswered: bool) -> Release {
        let in_time = self.client.0.dispatcher.now() < self.valid_until();
        match removed {
            Removed::AsHolder => Release::Released,
            // Our own removal that was not answered did it.
            Removed::Absent if unanswered && in_time => Release::Released,
            Removed::Absent if in_time => Release::NotHeld(LossReason::Evicted),
            Removed::Absent => Release::NotHeld(LossReason::Expired),
            Removed::AsWaiter => Release::NotHeld(LossReason::Displaced),
        }
    }

    fn removal(&self) -> Removal {
        Removal {
            name: self.attempt.name.clone(),
            id: self.attempt.id,
            ttl: self.ttl,
            outcome_known: true,
            not_before: None,
            attempt: Arc::clone(&self.attempt),
        }
    }

    /// Stops renewing, and leaves the lock to its TTL without telling the store: nobody else gets
    /// it before that.
    pub fn abandon(mut self) {
        let dispatcher = &self.client.0.dispatcher;
        self.abandoned = true;
        dispatcher.forget(&self.attempt);
        if dispatcher.is_pooled() {
            // The session under it lives on, so somebody has to end the grant.
            let not_before = Some(dispatcher.now() + self.ttl);
            dispatcher.send_command(Command::Remove(Removal {
                not_before,
                ..self.removal()
            }));
        }
    }
}

/// Ends a release that was begun, also when its future is dropped.
struct ReleaseOnDrop<'a> {
    guard: &'a Guard,
    answer: Option<Result<(), LossReason>>,
}

impl Drop for ReleaseOnDrop<'_> {
    fn drop(&mut self) {
        let dispatcher = &self.guard.client.0.dispatcher;
        self.guard
            .attempt
            .end_release(self.answer, dispatcher.now());
        if self.answer.is_none() {
            dispatcher.remove_in_background(&self.guard.attempt, true);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.abandoned {
            return;
        }
        let dispatcher = &self.client.0.dispatcher;
        if let Ok(true) = self.attempt.begin_release(dispatcher.now()) {
            dispatcher.remove_in_background(&self.attempt, true);
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
