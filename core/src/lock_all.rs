//! Several locks at once (clause M8).

use std::{fmt, future::pending, time::Duration};

use futures_util::future::{join_all, select_all};

use crate::{
    acquire::Acquisition,
    client::{Client, Release},
    clock::Instant,
    error::{Error, ErrorKind},
    guard::{Guard, NotHeld},
    lease::Phase,
    lock::Lock,
    loss::LossReason,
    mode::Mode,
    name::LockName,
    request::Waiting,
};

/// Several locks that are acquired and released together.
///
/// They are acquired one after the other, in the order of their encoded names, so that two clients that
/// want the same locks cannot deadlock. A name that is given twice counts once.
#[derive(Clone, Debug)]
pub struct LockAll {
    client: Client,
    locks: Vec<Lock>,
    /// Counts from the moment at which all locks are held.
    min_hold: Duration,
}

/// The guards of several locks. Dropping it releases them in the background, the last one first.
#[derive(Debug)]
#[must_use = "dropping the guards releases the locks"]
pub struct GuardAll {
    guards: Vec<Guard>,
}

/// The locks whose release was not acknowledged, each with its outcome.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NotReleased(pub Vec<(LockName, Release)>);

impl fmt::Display for NotReleased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, release)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            let name = name.as_str();
            match release {
                Release::Unknown(error) => {
                    write!(
                        f,
                        "{separator}it is unknown whether {name:?} was released: {error}"
                    )?;
                }
                Release::NotHeld(reason) => write!(f, "{separator}{name:?} was lost: {reason}")?,
                Release::Released => {}
            }
        }
        Ok(())
    }
}

impl std::error::Error for NotReleased {}

impl Client {
    /// Returns the locks with these names, to be acquired together. Sends nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidName`](crate::error::ErrorKind::InvalidName), with the defect of the first
    /// invalid name and its position.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tenure_core::{Client, memory::MemoryStore};
    /// # let client = Client::builder(MemoryStore::new()).connect().await?;
    /// let both = client.lock_all(["account-7", "account-9"])?;
    /// let guards = both.acquire().await?;
    /// guards.check()?;
    /// guards.release().await?;
    /// # Ok(()) }
    /// ```
    pub fn lock_all<N: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = N>,
    ) -> Result<LockAll, Error> {
        let names = names.into_iter().map(|name| LockName::new(name.as_ref()));
        let mut names = names.collect::<Result<Vec<_>, _>>()?;
        names.sort_by_cached_key(LockName::encoded);
        names.dedup();
        Ok(LockAll {
            client: self.clone(),
            locks: names
                .into_iter()
                .map(|name| self.lock_named(name))
                .collect(),
            min_hold: Duration::ZERO,
        })
    }
}

impl LockAll {
    /// Sets the TTL of all locks, as [`Lock::ttl`].
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.locks = self.locks.into_iter().map(|lock| lock.ttl(ttl)).collect();
        self
    }

    /// Sets the label that is shown to other clients, beside host and process id.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        let label = label.into();
        let locks = self.locks.into_iter();
        self.locks = locks.map(|lock| lock.label(label.as_str())).collect();
        self
    }

    /// Sets the mode of all locks, as [`Lock::mode`].
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.locks = self.locks.into_iter().map(|lock| lock.mode(mode)).collect();
        self
    }

    /// Sets for how long all locks are kept once they are all held, as [`Lock::min_hold`].
    #[must_use]
    pub const fn min_hold(mut self, time: Duration) -> Self {
        self.min_hold = time;
        self
    }

    /// Returns the locks, in the order in which they are acquired.
    #[must_use]
    pub fn locks(&self) -> &[Lock] {
        &self.locks
    }

    /// Acquires all locks. Waits without a time limit, and holds what it has meanwhile. If it loses a lock
    /// while it waits for another, it begins anew.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`]; the locks that were acquired before are released. The detail of the error
    /// names any whose release is unknown.
    ///
    /// # Cancel safety
    ///
    /// As [`Lock::acquire`]; the locks that were acquired before are released in the background.
    pub async fn acquire(&self) -> Result<GuardAll, Error> {
        loop {
            let acquired = self.acquire_observed(None, |_, _| {}).await?;
            if let Acquisition::Acquired(guards) = acquired {
                return Ok(guards);
            }
        }
    }

    /// Acquires all locks if they are free. Does not wait.
    ///
    /// # Errors
    ///
    /// As [`Lock::try_acquire`] and [`acquire`](Self::acquire). A lock held by another client is not an
    /// error: the holder of the first such lock is returned, and the others are released. It is one
    /// ([`ErrorKind::OutcomeUnknown`]) if the store does not acknowledge that release.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Acquisition<GuardAll>, Error> {
        self.acquire_by(None, &mut |_, _| {}).await
    }

    /// Acquires all locks. Waits at most `budget` for all of them together, requests included.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire_within`] and [`acquire`](Self::acquire). A budget that ends while another
    /// client holds one of the locks is not an error: the others are released, which takes up to two
    /// request time-outs more.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_within(&self, budget: Duration) -> Result<Acquisition<GuardAll>, Error> {
        self.acquire_observed(Some(budget), |_, _| {}).await
    }

    /// Like [`acquire_within`](Self::acquire_within), and calls `on_wait` for each "still waiting" answer,
    /// with the lock that is waited for. Without a budget it waits without a time limit.
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
        mut on_wait: impl FnMut(&Lock, &Waiting) + Send,
    ) -> Result<Acquisition<GuardAll>, Error> {
        let until = budget.map_or(Instant::FAR_FUTURE, |budget| {
            self.client.0.dispatcher.now() + budget
        });
        self.acquire_by(Some(until), &mut on_wait).await
    }

    /// Acquires all locks by `until`; without waiting if it is `None`.
    async fn acquire_by(
        &self,
        until: Option<Instant>,
        on_wait: &mut (dyn FnMut(&Lock, &Waiting) + Send),
    ) -> Result<Acquisition<GuardAll>, Error> {
        loop {
            if let Some(acquired) = self.acquire_once(until, on_wait).await? {
                if let Acquisition::Acquired(guards) = &acquired {
                    for guard in guards.guards() {
                        guard.hold_for(self.min_hold);
                    }
                }
                return Ok(acquired);
            }
            tracing::debug!("one of several locks was lost before all were held; trying again");
        }
    }

    /// Acquires the locks once. Returns `None` if one that was acquired is lost before all are.
    async fn acquire_once(
        &self,
        until: Option<Instant>,
        on_wait: &mut (dyn FnMut(&Lock, &Waiting) + Send),
    ) -> Result<Option<Acquisition<GuardAll>>, Error> {
        let mut held = GuardAll { guards: Vec::new() };
        for lock in &self.locks {
            let acquire = async {
                match until {
                    None => lock.try_acquire().await,
                    Some(until) => {
                        let on_wait = |waiting: &Waiting| on_wait(lock, waiting);
                        lock.acquire_until(until, on_wait).await
                    }
                }
            };
            let acquired = tokio::select! {
                biased;
                acquired = acquire => acquired,
                _ = held.lost(), if !held.guards.is_empty() => {
                    let _ = held.release().await;
                    return Ok(None);
                }
            };
            match acquired {
                Ok(Acquisition::Acquired(guard)) => held.guards.push(guard),
                Ok(Acquisition::Busy(holder)) => {
                    let Some(unknown) = held.give_back().await else {
                        return Ok(Some(Acquisition::Busy(holder)));
                    };
                    let error = Error::new(ErrorKind::OutcomeUnknown, "acquiring")
                        .with_backend(self.client.0.info.scheme)
                        .with_lock(lock.name().clone());
                    return Err(error.with_detail(format!(
                        "it is held by {holder}; of the locks acquired before, {unknown}"
                    )));
                }
                Err(error) => {
                    let Some(unknown) = held.give_back().await else {
                        return Err(error);
                    };
                    let detail = error.detail().map(|detail| format!("{detail}; "));
                    return Err(error.with_detail(format!(
                        "{}of the locks acquired before, {unknown}",
                        detail.unwrap_or_default()
                    )));
                }
            }
        }
        if held.check().is_err() {
            let _ = held.release().await;
            return Ok(None);
        }
        Ok(Some(Acquisition::Acquired(held)))
    }
}

impl GuardAll {
    /// Returns the guards, in the order of the encoded names of their locks.
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// Returns the guard of a lock; `None` if it is not one of these.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Guard> {
        let mut guards = self.guards.iter();
        guards.find(|guard| guard.name().as_str() == name)
    }

    /// Checks that all locks are held at this moment, as [`Guard::check`].
    ///
    /// # Errors
    ///
    /// [`NotHeld`] of the first lock that is not held.
    pub fn check(&self) -> Result<(), NotHeld> {
        self.guards
            .iter()
            .try_for_each(|guard| guard.check().map(drop))
    }

    /// Waits until one of the locks is lost, and returns which and why. Never completes after a release.
    ///
    /// # Cancel safety
    ///
    /// As [`Guard::lost`].
    pub async fn lost(&self) -> (&LockName, LossReason) {
        if self.guards.is_empty() {
            return pending().await;
        }
        let losses = self
            .guards
            .iter()
            .map(|guard| Box::pin(async move { (guard.name(), guard.lost().await) }));
        select_all(losses).await.0
    }

    /// Returns the phase of the locks together: lost if one is lost, else released if one is (or its release
    /// is in progress), else suspect if one is suspect.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let phases = self.guards.iter().map(Guard::phase);
        let furthest = phases.max_by_key(|phase| match phase {
            Phase::Held => 0,
            Phase::Suspect => 1,
            Phase::Releasing | Phase::Released => 2,
            Phase::Lost(_) => 3,
        });
        furthest.unwrap_or(Phase::Held)
    }

    /// Returns the shortest granted TTL.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        let ttls = self.guards.iter().map(Guard::ttl);
        ttls.min().unwrap_or(Duration::MAX)
    }

    /// Returns the time for which all locks stay held without another renewal; zero if one is not held.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let times = self.guards.iter().map(Guard::remaining);
        times.min().unwrap_or(Duration::MAX)
    }

    /// Returns the time for which the locks are kept by their minimum hold, as
    /// [`Guard::min_hold_left`].
    #[must_use]
    pub fn min_hold_left(&self) -> Duration {
        let times = self.guards.iter().map(Guard::min_hold_left);
        times.max().unwrap_or(Duration::ZERO)
    }

    /// Returns the error of the last renewal of the first lock that has one, as
    /// [`Guard::last_renewal_error`].
    #[must_use]
    pub fn last_renewal_error(&self) -> Option<Error> {
        self.guards.iter().find_map(Guard::last_renewal_error)
    }

    /// Waits until the deadline or the phase of one of the locks has changed, as
    /// [`Guard::deadline_changed`].
    ///
    /// # Cancel safety
    ///
    /// As [`Guard::deadline_changed`].
    pub async fn deadline_changed(&self) {
        if self.guards.is_empty() {
            return pending().await;
        }
        let changes = self
            .guards
            .iter()
            .map(|guard| Box::pin(guard.deadline_changed()));
        select_all(changes).await;
    }

    /// Renews all locks now, as [`Guard::renew`].
    ///
    /// # Errors
    ///
    /// [`NotHeld`] if one of the locks is lost.
    ///
    /// # Cancel safety
    ///
    /// The renewal continues.
    pub async fn renew(&self) -> Result<(), NotHeld> {
        for guard in &self.guards {
            guard.renew().await?;
        }
        Ok(())
    }

    /// Stops renewing without informing the store, as [`Guard::abandon`].
    pub fn abandon(mut self) {
        while let Some(guard) = self.guards.pop() {
            guard.abandon();
        }
    }

    /// Returns the moment until which all locks stay held without another renewal.
    #[must_use]
    pub fn valid_until(&self) -> Instant {
        let moments = self.guards.iter().map(Guard::valid_until);
        moments.min().unwrap_or(Instant::FAR_FUTURE)
    }

    /// Releases all locks, as [`Guard::release`]. The requests are sent at the same time, that of the last
    /// lock first.
    ///
    /// # Errors
    ///
    /// [`NotReleased`] with each lock whose release the store has not acknowledged.
    ///
    /// # Cancel safety
    ///
    /// The releases continue in the background.
    pub async fn release(self) -> Result<(), NotReleased> {
        let release = async |guard: &Guard| (guard.name().clone(), guard.release().await);
        let releases = self.guards.iter().rev().map(release);
        let mut outcomes = join_all(releases).await;
        outcomes.retain(|(_, outcome)| !matches!(outcome, Release::Released));
        if outcomes.is_empty() {
            return Ok(());
        }
        Err(NotReleased(outcomes))
    }

    /// Releases what was acquired. Returns the locks whose release is unknown, if there are any.
    async fn give_back(self) -> Option<NotReleased> {
        let mut failed = self.release().await.err()?;
        // What was lost is not held either.
        failed
            .0
            .retain(|(_, outcome)| matches!(outcome, Release::Unknown(_)));
        (!failed.0.is_empty()).then_some(failed)
    }
}

impl Drop for GuardAll {
    fn drop(&mut self) {
        while let Some(guard) = self.guards.pop() {
            drop(guard);
        }
    }
}
