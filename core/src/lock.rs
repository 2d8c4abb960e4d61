//! A lock by its name: how to acquire it.

use std::time::Duration;

use tracing::Instrument;

use crate::{
    client::{AcquireParams, Acquisition, Client},
    clock::Instant,
    error::{Error, ErrorKind},
    guard::{Guard, NotHeld},
    loss::LossReason,
    name::LockName,
    request::{Owner, Waiting},
};

/// A lock of a client. Cheap to clone. Having one is not holding it.
///
/// Two guards of one process exclude each other as two hosts would: there is no re-entrance
/// (clause X2).
#[derive(Clone, Debug)]
pub struct Lock {
    client: Client,
    name: LockName,
    ttl: Option<Duration>,
    label: Option<String>,
}

/// What a client's locks are acquired with unless they say otherwise.
#[derive(Debug)]
pub(crate) struct Defaults {
    owner: Owner,
    ttl: Duration,
    clamp_ttl: bool,
    read_only: bool,
}

impl Defaults {
    pub(crate) fn new(label: String, ttl: Duration, clamp_ttl: bool, read_only: bool) -> Self {
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        Self {
            owner: Owner::new(label, host, std::process::id()),
            ttl,
            clamp_ttl,
            read_only,
        }
    }
}

/// Why [`Lock::run`] did not end well.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError<T> {
    /// The lock was not acquired; the body did not run.
    Acquire(Error),
    /// The lock was lost, and the body stopped at its next `.await`.
    Lost {
        /// Why it was lost.
        reason: LossReason,
        /// What the body returned, if it had come to its end before the loss was seen. Part of its
        /// work may have been done without the lock.
        output: Option<T>,
    },
}

impl<T> std::fmt::Display for RunError<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Acquire(error) => error.fmt(f),
            Self::Lost { reason, .. } => write!(f, "the work was stopped: {reason}"),
        }
    }
}

impl<T: std::fmt::Debug> std::error::Error for RunError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Acquire(error) => std::error::Error::source(error),
            Self::Lost { .. } => None,
        }
    }
}

impl Lock {
    pub(crate) const fn new(client: Client, name: LockName) -> Self {
        Self {
            client,
            name,
            ttl: None,
            label: None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &LockName {
        &self.name
    }

    /// Sets the TTL: the least time for which the store keeps the lock of a holder that has fallen
    /// silent. Checked when it is acquired.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets what others are shown as its owner, beside host and process id.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Acquires the lock, and waits for it as long as it takes.
    ///
    /// # Errors
    ///
    /// What the store says when the attempt is enqueued;
    /// [`OutcomeUnknown`](crate::error::ErrorKind::OutcomeUnknown) if it gives no answer then, in
    /// which case the attempt is removed. Once in the queue, a store that is away for a while ends
    /// nothing.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any point. The attempt is removed in the background and its place in the
    /// queue is lost (clause A4).
    pub async fn acquire(&self) -> Result<Guard, Error> {
        loop {
            let params = self.params(true, Instant::FAR_FUTURE)?;
            let acquired = self.instrumented(params, &mut |_| {}).await?;
            if let Acquisition::Acquired(guard) = acquired {
                return Ok(guard);
            }
        }
    }

    /// Acquires the lock if nobody has it, and does not wait for it.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire). That somebody else has the lock is no error.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Acquisition, Error> {
        // One request's time, whatever the number of attempts.
        let dispatcher = &self.client.0.dispatcher;
        let params = self.params(false, dispatcher.now() + dispatcher.request_timeout)?;
        self.instrumented(params, &mut |_| {}).await
    }

    /// Acquires the lock, and waits for it at most that long, requests included (clause A1).
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire). That the budget is spent while somebody else has the lock is
    /// no error; the attempt is then taken out of the queue in the background, so a program that
    /// ends at once should [shut its client down](Client::shutdown) first.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_within(&self, budget: Duration) -> Result<Acquisition, Error> {
        self.acquire_observed(Some(budget), |_| {}).await
    }

    /// As [`acquire_within`](Self::acquire_within), and tells of each answer "still waiting":
    /// how many are ahead, and who has the lock. With no budget it waits as long as it takes.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_observed(
        &self,
        budget: Option<Duration>,
        mut on_wait: impl FnMut(&Waiting) + Send,
    ) -> Result<Acquisition, Error> {
        let until = budget.map_or(Instant::FAR_FUTURE, |budget| {
            self.client.0.dispatcher.now() + budget
        });
        let params = self.params(true, until)?;
        self.instrumented(params, &mut on_wait).await
    }

    /// Runs `body` while holding the lock, and stops it when the lock is lost.
    ///
    /// The body is polled by the caller's task, renewal runs in another. When a loss and the
    /// body's end come together, the loss wins. A future is stopped at its next `.await` only, so
    /// writes need the token all the same. A release that fails is logged and no error: the TTL
    /// frees the lock.
    ///
    /// # Errors
    ///
    /// [`RunError::Acquire`], or [`RunError::Lost`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the body and releases the lock in the background.
    pub async fn run<T>(&self, body: impl AsyncFnOnce(&Guard) -> T) -> Result<T, RunError<T>> {
        let guard = self.acquire().await.map_err(RunError::Acquire)?;
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
            // Released by the body itself, or still held.
            Err(NotHeld::Released) => Ok(output),
            Ok(_) => {
                let outcome = guard.release().await;
                tracing::debug!(?outcome, "released after the work was done");
                Ok(output)
            }
        }
    }

    async fn instrumented(
        &self,
        params: AcquireParams,
        on_wait: &mut (dyn FnMut(&Waiting) + Send),
    ) -> Result<Acquisition, Error> {
        let span = tracing::debug_span!(
            "tenure.acquire",
            lock.name = %self.name.as_str().escape_debug(),
            lock.backend = self.client.info().scheme,
        );
        self.client.acquire(params, on_wait).instrument(span).await
    }

    fn params(&self, wait: bool, until: Instant) -> Result<AcquireParams, Error> {
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
                Error::new(ErrorKind::Unsupported, "acquiring").with_detail(
                    "this client was connected as an observer, which acquires nothing",
                ),
            ));
        }
        let range = self.client.capabilities().ttl;
        let wanted = self.ttl.unwrap_or(inner.defaults.ttl);
        let ttl = range
            .resolve(wanted, inner.defaults.clamp_ttl)
            .map_err(named)?;
        inner.dispatcher.drift_bounds.check(ttl).map_err(named)?;
        let mut owner = inner.defaults.owner.clone();
        if let Some(label) = &self.label {
            owner = Owner::new(label.clone(), owner.host, owner.pid);
        }
        Ok(AcquireParams {
            name: self.name.clone(),
            owner,
            ttl,
            wait,
            until,
        })
    }
}
