//! A named lock and the ways to acquire it.

use std::time::Duration;

use tracing::{Instrument, field};

use crate::{
    acquire::Acquisition,
    client::Client,
    clock::Instant,
    error::{Error, ErrorKind},
    guard::{Guard, NotHeld},
    id::AttemptId,
    loss::LossReason,
    mode::Mode,
    name::LockName,
    request::{Enqueue, Holder, Owner, Waiting},
};

/// A lock of a client. Cheap to clone. A `Lock` value does not hold the lock; a [`Guard`] does.
///
/// Two guards of one process exclude each other like guards of two hosts: locks are not re-entrant
/// (clause X2).
#[derive(Clone, Debug)]
pub struct Lock {
    client: Client,
    name: LockName,
    ttl: Option<Duration>,
    label: Option<String>,
    mode: Mode,
    min_hold: Duration,
    beside_readers: bool,
}

/// The reason for which [`Lock::run`] failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError<T> {
    /// The lock was not acquired, and the body did not run.
    Acquire(Error),
    /// Another client held the lock until the time limit, and the body did not run.
    Busy(Box<Holder>),
    /// The lock was lost, and the body was stopped at its next `.await`.
    Lost {
        /// The reason for the loss.
        reason: LossReason,
        /// The body's output, if the body completed before the loss was noticed. Part of its work
        /// may have been done without the lock.
        output: Option<T>,
    },
}

impl<T> std::fmt::Display for RunError<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Acquire(error) => error.fmt(f),
            Self::Busy(holder) => write!(f, "the lock is held by {holder}"),
            Self::Lost { reason, .. } => {
                write!(f, "the lock was lost and the work was stopped: {reason}")
            }
        }
    }
}

impl<T: std::fmt::Debug> std::error::Error for RunError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Acquire(error) => std::error::Error::source(error),
            Self::Busy(_) | Self::Lost { .. } => None,
        }
    }
}

impl Client {
    /// Returns the lock with this name. Sends nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidName`], with the defect of the name and its position.
    pub fn lock(&self, name: impl AsRef<str>) -> Result<Lock, Error> {
        Ok(self.lock_named(LockName::new(name)?))
    }

    /// Returns the lock with a name that is already validated. Sends nothing.
    #[must_use]
    pub fn lock_named(&self, name: LockName) -> Lock {
        Lock {
            client: self.clone(),
            name,
            ttl: None,
            label: None,
            mode: Mode::Exclusive,
            min_hold: Duration::ZERO,
            beside_readers: false,
        }
    }
}

impl Lock {
    /// Returns the lock's name.
    #[must_use]
    pub const fn name(&self) -> &LockName {
        &self.name
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the TTL that an acquire asks for.
    pub(crate) fn requested_ttl(&self) -> Duration {
        self.ttl.unwrap_or(self.client.0.defaults.ttl)
    }

    /// Sets the TTL: the minimum time for which the store keeps the lock of a silent holder. It is
    /// checked when the lock is acquired.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the label that is shown to other clients, beside host and process id.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Sets the mode. [`Client::rw_lock`] and [`Client::semaphore`] set it for the usual cases.
    #[must_use]
    pub const fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets for how long the lock is kept after each grant, also if the guard is released or dropped
    /// earlier (clause H1). With it, a job that is due on several hosts at the same time runs once, as
    /// long as the time is longer than the difference between their clocks and shorter than the interval
    /// between two runs.
    ///
    /// The time counts from the arrival of the grant and is lengthened by the drift between clocks. The
    /// client renews the lock meanwhile. If the process ends, the lock is kept for the rest of its TTL.
    #[must_use]
    pub const fn min_hold(mut self, time: Duration) -> Self {
        self.min_hold = time;
        self
    }

    /// Makes an exclusive lock that of a writer, so that the driver can name it as such.
    pub(crate) const fn beside_readers(mut self) -> Self {
        self.beside_readers = true;
        self
    }

    /// Acquires the lock. Waits without a time limit.
    ///
    /// # Errors
    ///
    /// Errors that a later attempt cannot mend, such as a refused permission. An outage of the
    /// store causes no error: a request that is not answered in time is followed by a new attempt,
    /// and the old one is removed. To limit the wait, use [`acquire_within`](Self::acquire_within).
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped at any point. The client removes the attempt in the background,
    /// and its position in the queue is lost (clause A4).
    pub async fn acquire(&self) -> Result<Guard, Error> {
        loop {
            let acquired = self
                .run_acquire(true, Instant::FAR_FUTURE, &mut |_| {})
                .await?;
            if let Acquisition::Acquired(guard) = acquired {
                return Ok(guard);
            }
        }
    }

    /// Acquires the lock if it is free. Does not wait.
    ///
    /// # Errors
    ///
    /// The store's error when the attempt is enqueued.
    /// [`OutcomeUnknown`](crate::error::ErrorKind::OutcomeUnknown) if the store does not answer
    /// within the request time-out; then the attempt is removed. A lock held by another client is
    /// not an error.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Acquisition, Error> {
        // The limit is one request time-out for all attempts together.
        let dispatcher = &self.client.0.dispatcher;
        let until = dispatcher.now() + dispatcher.request_timeout;
        self.run_acquire(false, until, &mut |_| {}).await
    }

    /// Acquires the lock. Waits at most `budget`, requests included (clause A1).
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), and the error of the last request if the budget ends while the
    /// store does not answer. A budget that ends while another client holds the lock is not an
    /// error. The client then removes the attempt from the queue in the background, so a program
    /// that exits right away should [shut its client down](Client::shutdown) first.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_within(&self, budget: Duration) -> Result<Acquisition, Error> {
        self.acquire_observed(Some(budget), |_| {}).await
    }

    /// Like [`acquire_within`](Self::acquire_within), and calls `on_wait` for each "still waiting"
    /// answer, with the number of entries ahead and the holder. Without a budget it waits without a
    /// time limit.
    ///
    /// # Errors
    ///
    /// As [`acquire_within`](Self::acquire_within).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_observed(
        &self,
        budget: Option<Duration>,
        on_wait: impl FnMut(&Waiting) + Send,
    ) -> Result<Acquisition, Error> {
        let until = budget.map_or(Instant::FAR_FUTURE, |budget| {
            self.client.0.dispatcher.now() + budget
        });
        self.acquire_until(until, on_wait).await
    }

    /// Like [`acquire_observed`](Self::acquire_observed), with the moment at which the wait ends.
    pub(crate) async fn acquire_until(
        &self,
        until: Instant,
        mut on_wait: impl FnMut(&Waiting) + Send,
    ) -> Result<Acquisition, Error> {
        self.run_acquire(true, until, &mut on_wait).await
    }

    /// Runs `body` under the lock, and stops it when the lock is lost.
    ///
    /// The caller's task polls the body; another task renews. If a loss and the completion of the
    /// body coincide, the loss wins. A future can be stopped only at its next `.await`, so writes
    /// need the token nevertheless. A failed release is logged and is not an error: the lock is
    /// free after its TTL.
    ///
    /// # Errors
    ///
    /// [`RunError::Acquire`] if the lock cannot be acquired, [`RunError::Lost`] if it is lost.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the body and releases the lock in the background.
    ///
    /// ```
    /// # use tenure_core::{Lock, RunError};
    /// # async fn write_report(_token: u64) {}
    /// # async fn example(lock: Lock) -> Result<(), RunError<()>> {
    /// lock.run(async |guard| write_report(guard.token().get()).await)
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub async fn run<T>(&self, body: impl AsyncFnOnce(&Guard) -> T) -> Result<T, RunError<T>> {
        let guard = self.acquire().await.map_err(RunError::Acquire)?;
        run_under(guard, body).await
    }

    /// Like [`run`](Self::run), but waits for the lock for at most `budget`.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and [`RunError::Busy`] if another client holds the lock until then.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn run_within<T>(
        &self,
        budget: Duration,
        body: impl AsyncFnOnce(&Guard) -> T,
    ) -> Result<T, RunError<T>> {
        run_if_acquired(self.acquire_within(budget).await, body).await
    }

    /// Like [`run`](Self::run), but only if the lock is free.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and [`RunError::Busy`] if another client holds the lock.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn try_run<T>(&self, body: impl AsyncFnOnce(&Guard) -> T) -> Result<T, RunError<T>> {
        run_if_acquired(self.try_acquire().await, body).await
    }

    async fn run_acquire(
        &self,
        wait: bool,
        until: Instant,
        on_wait: &mut (dyn FnMut(&Waiting) + Send),
    ) -> Result<Acquisition, Error> {
        let request = self.request(wait)?;
        let span = tracing::debug_span!(
            "tenure.acquire",
            lock.name = %self.name.as_str().escape_debug(),
            lock.backend = self.client.info().scheme,
            lock.attempt = field::Empty,
            lock.token = field::Empty,
            outcome = field::Empty,
        );
        let acquire = self.client.acquire(request, until, on_wait);
        let outcome = acquire.instrument(span.clone()).await;
        match &outcome {
            Ok(Acquisition::Acquired(guard)) => {
                guard.hold_for(self.min_hold);
                span.record("lock.attempt", field::display(guard.attempt()));
                span.record("lock.token", guard.token().get());
                span.record("outcome", "acquired");
            }
            Ok(Acquisition::Busy(_)) => {
                span.record("outcome", "busy");
            }
            Err(_) => {
                span.record("outcome", "error");
            }
        }
        outcome
    }

    /// Returns the enqueue of the first attempt.
    fn request(&self, wait: bool) -> Result<Enqueue, Error> {
        let inner = &self.client.0;
        let scheme = inner.info.scheme;
        let named = |error: Error| {
            error
                .with_operation("acquiring")
                .with_backend(scheme)
                .with_lock(self.name.clone())
        };
        if inner.defaults.read_only {
            return Err(named(
                Error::new(ErrorKind::Unsupported, "acquiring")
                    .with_detail("this client is read-only and cannot acquire locks"),
            ));
        }
        let capabilities = self.client.capabilities();
        if !self.mode.is_valid() {
            return Err(named(
                Error::new(ErrorKind::Config, "acquiring")
                    .with_detail(format!("there are no permits {}", self.mode)),
            ));
        }
        if !capabilities.modes.offer(self.mode) {
            let kind = match self.mode {
                Mode::Shared => "shared locks",
                _ => "permits",
            };
            return Err(named(
                Error::new(ErrorKind::Unsupported, "acquiring")
                    .with_detail(format!("this backend has no {kind}, only exclusive locks")),
            ));
        }
        let range = capabilities.ttl;
        let wanted = self.requested_ttl();
        let ttl = range
            .resolve(wanted, inner.defaults.clamp_ttl)
            .map_err(named)?;
        inner.dispatcher.drift_bounds.check(ttl).map_err(named)?;
        let mut owner = inner.defaults.owner.clone();
        if let Some(label) = &self.label {
            owner = Owner::new(label.clone(), owner.host, owner.pid);
        }
        let attempt = AttemptId::random()?;
        Ok(Enqueue::new(self.name.clone(), attempt, owner, ttl, wait)
            .with_mode(self.mode)
            .with_readers(self.beside_readers))
    }
}

async fn run_if_acquired<T>(
    acquired: Result<Acquisition, Error>,
    body: impl AsyncFnOnce(&Guard) -> T,
) -> Result<T, RunError<T>> {
    match acquired.map_err(RunError::Acquire)? {
        Acquisition::Acquired(guard) => run_under(guard, body).await,
        Acquisition::Busy(holder) => Err(RunError::Busy(Box::new(holder))),
    }
}

async fn run_under<T>(guard: Guard, body: impl AsyncFnOnce(&Guard) -> T) -> Result<T, RunError<T>> {
    let output = {
        let work = body(&guard);
        tokio::pin!(work);
        tokio::select! {
            biased;
            reason = guard.lost() => return Err(RunError::Lost { reason, output: None }),
            output = &mut work => output,
        }
    };
    match guard.check() {
        Err(NotHeld::Lost(reason)) => Err(RunError::Lost {
            reason,
            output: Some(output),
        }),
        // The body released the guard itself.
        Err(NotHeld::Released) => Ok(output),
        Ok(_) => {
            let outcome = guard.release().await;
            tracing::debug!(?outcome, "released after the work was done");
            Ok(output)
        }
    }
}
