//! Locks for readers and writers, and semaphores (clauses M1 to M7).

use std::time::Duration;

use crate::{
    acquire::Acquisition, client::Client, error::Error, guard::Guard, lock::Lock, mode::Mode,
    name::LockName,
};

/// A lock for readers and writers. Any number of readers hold it together, or one writer alone.
///
/// Grants follow the queue (clause M2): a reader behind a waiting writer waits, too, so that readers who
/// keep coming do not starve a writer. A lock has one queue: it also excludes the guards of
/// [`Client::lock`] and [`Client::semaphore`] with the same name, in order.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use tenure_core::{Client, memory::MemoryStore};
/// # let client = Client::builder(MemoryStore::new()).connect().await?;
/// let catalogue = client.rw_lock("catalogue")?;
/// let writing = catalogue.write().acquire().await?;
/// // No other writer comes between the work as a writer and as a reader.
/// let reading = writing.downgrade().await?;
/// let other_reader = catalogue.read().acquire().await?;
/// # let _ = (reading.release().await, other_reader.release().await);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RwLock {
    lock: Lock,
}

impl RwLock {
    /// Creates the lock from a [`Lock`], which may have a TTL and a label of its own.
    #[must_use]
    pub const fn new(lock: Lock) -> Self {
        Self { lock }
    }

    /// Returns the lock's name.
    #[must_use]
    pub const fn name(&self) -> &LockName {
        self.lock.name()
    }

    /// Returns the lock to acquire for reading.
    #[must_use]
    pub fn read(&self) -> Lock {
        self.lock.clone().mode(Mode::Shared)
    }

    /// Returns the lock to acquire for writing. Its guard can be [downgraded](Guard::downgrade).
    #[must_use]
    pub fn write(&self) -> Lock {
        self.lock.clone().beside_readers()
    }
}

/// A lock with a fixed number of permits, of which each holder takes one or more.
///
/// Grants follow the queue (clause M2): small requests do not overtake one that needs many permits. All
/// clients must name the same number of permits; attempts that name different numbers exclude each
/// other, so that a change of the number never grants too many.
#[derive(Clone, Debug)]
pub struct Semaphore {
    lock: Lock,
    of: u32,
}

impl Semaphore {
    /// Creates the lock with `of` permits from a [`Lock`], which may have a TTL and a label of its own.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::error::ErrorKind::Config) if `of` is zero.
    pub fn new(lock: Lock, of: u32) -> Result<Self, Error> {
        let semaphore = Self { lock, of };
        semaphore.permits(1)?;
        Ok(semaphore)
    }

    /// Returns the lock's name.
    #[must_use]
    pub const fn name(&self) -> &LockName {
        self.lock.name()
    }

    /// Returns the lock that takes `take` permits at once, for all the ways to acquire a [`Lock`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::error::ErrorKind::Config) if `take` is zero or more than there are
    /// (clause M6).
    pub fn permits(&self, take: u32) -> Result<Lock, Error> {
        let mode = Mode::permits(take, self.of);
        let mode = mode.map_err(|error| error.with_lock(self.name().clone()))?;
        Ok(self.lock.clone().mode(mode))
    }

    /// Acquires one permit. Waits without a time limit.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`].
    ///
    /// # Cancel safety
    ///
    /// As [`Lock::acquire`].
    pub async fn acquire(&self) -> Result<Guard, Error> {
        self.acquire_many(1).await
    }

    /// Acquires `take` permits at once. Waits without a time limit.
    ///
    /// # Errors
    ///
    /// As [`permits`](Self::permits) and [`Lock::acquire`].
    ///
    /// # Cancel safety
    ///
    /// As [`Lock::acquire`].
    pub async fn acquire_many(&self, take: u32) -> Result<Guard, Error> {
        self.permits(take)?.acquire().await
    }

    /// Acquires one permit if one is free. Does not wait.
    ///
    /// # Errors
    ///
    /// As [`Lock::try_acquire`].
    ///
    /// # Cancel safety
    ///
    /// As [`Lock::acquire`].
    pub async fn try_acquire(&self) -> Result<Acquisition, Error> {
        self.permits(1)?.try_acquire().await
    }

    /// Acquires one permit. Waits at most `budget`, requests included.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire_within`].
    ///
    /// # Cancel safety
    ///
    /// As [`Lock::acquire`].
    pub async fn acquire_within(&self, budget: Duration) -> Result<Acquisition, Error> {
        self.permits(1)?.acquire_within(budget).await
    }
}

impl Client {
    /// Returns the lock for readers and writers with this name. Sends nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidName`](crate::error::ErrorKind::InvalidName), with the defect of the name and
    /// its position.
    pub fn rw_lock(&self, name: impl AsRef<str>) -> Result<RwLock, Error> {
        Ok(RwLock::new(self.lock(name)?))
    }

    /// Returns the lock with `of` permits and this name. Sends nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidName`](crate::error::ErrorKind::InvalidName), with the defect of the name and
    /// its position; [`ErrorKind::Config`](crate::error::ErrorKind::Config) if `of` is zero.
    pub fn semaphore(&self, name: impl AsRef<str>, of: u32) -> Result<Semaphore, Error> {
        Semaphore::new(self.lock(name)?, of)
    }
}
