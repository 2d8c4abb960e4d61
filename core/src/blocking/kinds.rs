//! Locks that several may hold, several locks at once, and elections.

use std::{fmt, ops::Deref, time::Duration};

use super::{Client, ClientThread, Guard, Lock, ended};
use crate::{
    acquire::Acquisition, client::Release, election::Leader, error::Error, guard::NotHeld,
    lock_all::NotReleased, name::LockName, token::FencingToken,
};

/// A lock for readers and writers, as [`crate::RwLock`].
#[derive(Clone, Debug)]
pub struct RwLock {
    lock: crate::RwLock,
    client: Client,
}

impl RwLock {
    /// Creates the lock from a [`Lock`], which may have a TTL and a label of its own.
    #[must_use]
    pub fn new(lock: Lock) -> Self {
        let (lock, client) = lock.into_parts();
        let lock = crate::RwLock::new(lock);
        Self { lock, client }
    }

    /// Returns the lock of a reader.
    #[must_use]
    pub fn read(&self) -> Lock {
        Lock::new(self.lock.read(), self.client.clone())
    }

    /// Returns the lock of a writer. Its guard can be [downgraded](Guard::downgrade).
    #[must_use]
    pub fn write(&self) -> Lock {
        Lock::new(self.lock.write(), self.client.clone())
    }
}

/// A lock with a number of permits, as [`crate::Semaphore`].
#[derive(Clone, Debug)]
pub struct Semaphore {
    semaphore: crate::Semaphore,
    client: Client,
}

impl Semaphore {
    /// Creates the lock with `of` permits from a [`Lock`], which may have a TTL and a label of its own.
    ///
    /// # Errors
    ///
    /// As [`crate::Semaphore::new`].
    pub fn new(lock: Lock, of: u32) -> Result<Self, Error> {
        let (lock, client) = lock.into_parts();
        let semaphore = crate::Semaphore::new(lock, of)?;
        Ok(Self { semaphore, client })
    }

    /// Returns the lock that takes `take` permits at once, for all the ways to acquire a [`Lock`].
    ///
    /// # Errors
    ///
    /// As [`crate::Semaphore::permits`].
    pub fn permits(&self, take: u32) -> Result<Lock, Error> {
        let lock = self.semaphore.permits(take)?;
        Ok(Lock::new(lock, self.client.clone()))
    }

    /// Acquires one permit. Waits without a time limit.
    ///
    /// # Errors
    ///
    /// As [`crate::Lock::acquire`].
    pub fn acquire(&self) -> Result<Guard, Error> {
        self.permits(1)?.acquire()
    }

    /// Acquires `take` permits at once. Waits without a time limit.
    ///
    /// # Errors
    ///
    /// As [`permits`](Self::permits) and [`crate::Lock::acquire`].
    pub fn acquire_many(&self, take: u32) -> Result<Guard, Error> {
        self.permits(take)?.acquire()
    }
}

/// Several locks that are acquired and released together, as [`crate::LockAll`].
#[derive(Clone, Debug)]
pub struct LockAll {
    locks: crate::LockAll,
    client: Client,
}

impl LockAll {
    /// Sets the TTL of all locks, as [`crate::Lock::ttl`].
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.locks = self.locks.ttl(ttl);
        self
    }

    /// Acquires all locks. Waits without a time limit.
    ///
    /// # Errors
    ///
    /// As [`crate::LockAll::acquire`].
    pub fn acquire(&self) -> Result<GuardAll, Error> {
        let locks = self.locks.clone();
        let acquire = async move { locks.acquire().await };
        let guards = self.client.thread.run("acquiring", acquire)?;
        Ok(self.guards(guards))
    }

    /// Acquires all locks if they are free. Does not wait.
    ///
    /// # Errors
    ///
    /// As [`crate::LockAll::try_acquire`].
    pub fn try_acquire(&self) -> Result<Acquisition<GuardAll>, Error> {
        let locks = self.locks.clone();
        self.acquisition(async move { locks.try_acquire().await })
    }

    /// Acquires all locks. Waits at most `budget` for all of them together.
    ///
    /// # Errors
    ///
    /// As [`crate::LockAll::acquire_within`].
    pub fn acquire_within(&self, budget: Duration) -> Result<Acquisition<GuardAll>, Error> {
        let locks = self.locks.clone();
        self.acquisition(async move { locks.acquire_within(budget).await })
    }

    fn acquisition(
        &self,
        acquire: impl Future<Output = Result<Acquisition<crate::GuardAll>, Error>> + Send + 'static,
    ) -> Result<Acquisition<GuardAll>, Error> {
        Ok(match self.client.thread.run("acquiring", acquire)? {
            Acquisition::Acquired(guards) => Acquisition::Acquired(self.guards(guards)),
            Acquisition::Busy(holder) => Acquisition::Busy(holder),
        })
    }

    fn guards(&self, guards: crate::GuardAll) -> GuardAll {
        GuardAll {
            guards: Some(guards),
            thread: self.client.thread.clone(),
        }
    }
}

/// The guards of several locks. Dropping it releases them, the last one first, and waits for the store's
/// answers for up to one request time-out.
#[must_use = "dropping the guards releases the locks"]
pub struct GuardAll {
    /// `None` once released.
    guards: Option<crate::GuardAll>,
    thread: ClientThread,
}

impl GuardAll {
    /// Checks that all locks are held at this moment, as [`Guard::check`].
    ///
    /// # Errors
    ///
    /// [`NotHeld`] of the first lock that is not held.
    pub fn check(&self) -> Result<(), NotHeld> {
        let guards = self.guards.as_ref();
        guards.map_or(Err(NotHeld::Released), crate::GuardAll::check)
    }

    /// Returns the fencing token of a lock; `None` if it is not one of these.
    #[must_use]
    pub fn token(&self, name: &str) -> Option<FencingToken> {
        Some(self.guards.as_ref()?.get(name)?.token())
    }

    /// Releases all locks, the last one first, as [`crate::GuardAll::release`].
    ///
    /// # Errors
    ///
    /// [`NotReleased`] with each lock whose release the store has not acknowledged.
    pub fn release(mut self) -> Result<(), NotReleased> {
        let Some(guards) = self.guards.take() else {
            return Ok(());
        };
        let names: Vec<_> = guards
            .guards()
            .iter()
            .map(|guard| guard.name().clone())
            .collect();
        let released = self.thread.wait(async move { guards.release().await });
        released.unwrap_or_else(|| {
            let unknown = |name| (name, Release::Unknown(ended("releasing")));
            Err(NotReleased(names.into_iter().map(unknown).collect()))
        })
    }
}

impl Drop for GuardAll {
    fn drop(&mut self) {
        if let Some(guards) = self.guards.take() {
            // A minimum hold outlasts the wait; the releases follow it in the background.
            let first = guards
                .guards()
                .first()
                .filter(|_| guards.min_hold_left().is_zero());
            let limit = first.map(crate::Guard::request_timeout);
            let released = self.thread.spawn(async move { guards.release().await });
            // The releases continue in the background if they take longer.
            let _ = released.recv_timeout(limit.unwrap_or_default());
        }
    }
}

impl fmt::Debug for GuardAll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.guards.fmt(f)
    }
}

/// An election, as [`crate::Election`].
#[derive(Clone, Debug)]
pub struct Election {
    election: crate::Election,
    client: Client,
}

impl Election {
    /// Returns the name of the election.
    #[must_use]
    pub const fn name(&self) -> &LockName {
        self.election.name()
    }

    /// Sets the TTL, as [`crate::Election::ttl`].
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.election = self.election.ttl(ttl);
        self
    }

    /// Waits until this client leads.
    ///
    /// # Errors
    ///
    /// As [`crate::Election::campaign`].
    pub fn campaign(&self, value: impl Into<String>) -> Result<Leadership, Error> {
        let (election, value) = (self.election.clone(), value.into());
        let campaign = async move { election.campaign(value).await };
        let leading = self.client.thread.run("campaigning", campaign)?;
        let (guard, value) = leading.into_parts();
        Ok(Leadership {
            guard: Guard::new(guard, self.client.thread.clone()),
            value,
        })
    }

    /// Asks the store who leads.
    ///
    /// # Errors
    ///
    /// As [`crate::Election::leader`].
    pub fn leader(&self) -> Result<Leader, Error> {
        let election = self.election.clone();
        let ask = async move { election.leader().await };
        self.client.thread.run("asking who leads", ask)
    }
}

/// The leadership that an election has given: a [`Guard`], whose token is the term.
#[derive(Debug)]
#[must_use = "dropping it resigns"]
pub struct Leadership {
    guard: Guard,
    value: String,
}

impl Leadership {
    /// Returns the value that observers see.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Gives the leadership to the next candidate, as [`Guard::release`].
    pub fn resign(&self) -> Release {
        self.guard.release()
    }
}

impl Deref for Leadership {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}

impl Client {
    /// Returns the lock for readers and writers with this name. Sends nothing.
    ///
    /// # Errors
    ///
    /// As [`crate::Client::rw_lock`].
    pub fn rw_lock(&self, name: impl AsRef<str>) -> Result<RwLock, Error> {
        Ok(RwLock::new(self.lock(name)?))
    }

    /// Returns the lock with `of` permits and this name. Sends nothing.
    ///
    /// # Errors
    ///
    /// As [`crate::Client::semaphore`].
    pub fn semaphore(&self, name: impl AsRef<str>, of: u32) -> Result<Semaphore, Error> {
        Semaphore::new(self.lock(name)?, of)
    }

    /// Returns the locks with these names, to be acquired together. Sends nothing.
    ///
    /// # Errors
    ///
    /// As [`crate::Client::lock_all`].
    pub fn lock_all<N: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = N>,
    ) -> Result<LockAll, Error> {
        Ok(LockAll {
            locks: self.client.lock_all(names)?,
            client: self.clone(),
        })
    }

    /// Returns the election with this name. Sends nothing.
    ///
    /// # Errors
    ///
    /// As [`crate::Client::election`].
    pub fn election(&self, name: impl AsRef<str>) -> Result<Election, Error> {
        Ok(Election {
            election: self.client.election(name)?,
            client: self.clone(),
        })
    }
}
