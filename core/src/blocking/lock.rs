//! A named lock, and the ways to acquire it.

use std::time::Duration;

use super::{Client, Guard};
use crate::{acquire::Acquisition, error::Error, guard::NotHeld, lock::RunError, name::LockName};

/// A lock of a client. Cheap to clone. A `Lock` value does not hold the lock; a [`Guard`] does.
#[derive(Clone, Debug)]
pub struct Lock {
    lock: crate::Lock,
    client: Client,
}

impl Lock {
    pub(super) const fn new(lock: crate::Lock, client: Client) -> Self {
        Self { lock, client }
    }

    pub(super) fn into_parts(self) -> (crate::Lock, Client) {
        (self.lock, self.client)
    }

    /// Returns the lock's name.
    #[must_use]
    pub const fn name(&self) -> &LockName {
        self.lock.name()
    }

    /// Sets the TTL, as [`crate::Lock::ttl`].
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.lock = self.lock.ttl(ttl);
        self
    }

    /// Sets the label that is shown to other clients, beside host and process id.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.lock = self.lock.label(label);
        self
    }

    /// Sets for how long the lock is kept after each grant, as [`crate::Lock::min_hold`].
    #[must_use]
    pub fn min_hold(mut self, time: Duration) -> Self {
        self.lock = self.lock.min_hold(time);
        self
    }

    /// Acquires the lock. Waits without a time limit.
    ///
    /// # Errors
    ///
    /// As [`crate::Lock::acquire`].
    pub fn acquire(&self) -> Result<Guard, Error> {
        let lock = self.lock.clone();
        let acquire = async move { lock.acquire().await };
        self.client
            .thread
            .run("acquiring", acquire)
            .map(|guard| self.guard(guard))
    }

    /// Acquires the lock if it is free. Does not wait for the lock, but up to one request time-out for
    /// the store.
    ///
    /// # Errors
    ///
    /// As [`crate::Lock::try_acquire`].
    pub fn try_acquire(&self) -> Result<Acquisition<Guard>, Error> {
        let lock = self.lock.clone();
        self.acquisition(async move { lock.try_acquire().await })
    }

    /// Acquires the lock. Waits at most `budget`, requests included (clause A1).
    ///
    /// # Errors
    ///
    /// As [`crate::Lock::acquire_within`].
    pub fn acquire_within(&self, budget: Duration) -> Result<Acquisition<Guard>, Error> {
        let lock = self.lock.clone();
        self.acquisition(async move { lock.acquire_within(budget).await })
    }

    /// Runs `body` under the lock, and releases it, also if `body` panics. Waits for the lock without
    /// a time limit.
    ///
    /// Unlike an asynchronous body, this one cannot be stopped when the lock is lost: call
    /// [`Guard::check`] before each effect. A failed release is logged and is not an error: the lock
    /// is free after its TTL.
    ///
    /// # Errors
    ///
    /// [`RunError::Acquire`] if the lock cannot be acquired, [`RunError::Lost`] with the output if the
    /// lock was lost before `body` returned.
    pub fn run<T>(&self, body: impl FnOnce(&Guard) -> T) -> Result<T, RunError<T>> {
        let guard = self.acquire().map_err(RunError::Acquire)?;
        run_under(&guard, body)
    }

    /// Like [`run`](Self::run), but waits for the lock for at most `budget`.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and [`RunError::Busy`] if another client holds the lock until then.
    pub fn run_within<T>(
        &self,
        budget: Duration,
        body: impl FnOnce(&Guard) -> T,
    ) -> Result<T, RunError<T>> {
        run_if_acquired(self.acquire_within(budget), body)
    }

    /// Like [`run`](Self::run), but only if the lock is free.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and [`RunError::Busy`] if another client holds the lock.
    pub fn try_run<T>(&self, body: impl FnOnce(&Guard) -> T) -> Result<T, RunError<T>> {
        run_if_acquired(self.try_acquire(), body)
    }

    fn acquisition(
        &self,
        acquire: impl Future<Output = Result<Acquisition, Error>> + Send + 'static,
    ) -> Result<Acquisition<Guard>, Error> {
        let acquired = self.client.thread.run("acquiring", acquire)?;
        Ok(match acquired {
            Acquisition::Acquired(guard) => Acquisition::Acquired(self.guard(guard)),
            Acquisition::Busy(holder) => Acquisition::Busy(holder),
        })
    }

    fn guard(&self, guard: crate::Guard) -> Guard {
        Guard::new(guard, self.client.thread.clone())
    }
}

fn run_if_acquired<T>(
    acquired: Result<Acquisition<Guard>, Error>,
    body: impl FnOnce(&Guard) -> T,
) -> Result<T, RunError<T>> {
    match acquired.map_err(RunError::Acquire)? {
        Acquisition::Acquired(guard) => run_under(&guard, body),
        Acquisition::Busy(holder) => Err(RunError::Busy(Box::new(holder))),
    }
}

fn run_under<T>(guard: &Guard, body: impl FnOnce(&Guard) -> T) -> Result<T, RunError<T>> {
    let output = body(guard);
    match guard.check() {
        Err(NotHeld::Lost(reason)) => Err(RunError::Lost {
            reason,
            output: Some(output),
        }),
        _ => Ok(output),
    }
}
