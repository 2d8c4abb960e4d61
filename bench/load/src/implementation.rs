//! The implementations of locks that are measured.

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use tenure_core::{Client, Lock, Release, error::Error as LockError};

/// The failure of an implementation.
pub type Failure = Box<dyn Error + Send + Sync>;

/// One implementation of locks, connected to a store.
#[async_trait]
pub trait Implementation: Send + Sync {
    /// Returns the name for the results.
    fn name(&self) -> &'static str;

    /// Returns whether it can wait for a lock that is taken.
    fn waits(&self) -> bool;

    /// Acquires the lock, calls `held`, and releases the lock.
    ///
    /// # Errors
    ///
    /// Any failure; the measurement ends with it.
    ///
    /// # Cancel safety
    ///
    /// None is needed: the measurement never cancels this call.
    async fn acquire_and_release(
        &self,
        lock: &str,
        held: &(dyn Fn() + Sync),
    ) -> Result<(), Failure>;

    /// Connects another client of the same implementation, with its own connection and session, to the
    /// store at `url`. Returns `None` if the implementation cannot connect to a URL.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Cancelling drops the new connection.
    async fn connect(&self, url: &str) -> Result<Option<Arc<dyn Implementation>>, Failure> {
        let _ = url;
        Ok(None)
    }

    /// Closes the client, if dropping it would leave a session in the store.
    ///
    /// # Cancel safety
    ///
    /// After cancelling, the client may still be open.
    async fn close(&self) {}
}

/// How long [`TenureLocks::close`] may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Locks of `tenure` through its public API, with the queue, tokens, deadlines, renewal and notice of
/// loss.
#[derive(Clone, Debug)]
pub struct TenureLocks {
    client: Client,
    lock: LockOf,
}

/// Returns the lock of a client with this name, in the mode to measure.
pub type LockOf = fn(&Client, &str) -> Result<Lock, LockError>;

impl TenureLocks {
    /// Uses the exclusive locks of this client.
    pub fn new(client: Client) -> Self {
        Self::of_kind(client, |client, name| client.lock(name))
    }

    /// Uses the locks of this client that `lock` returns.
    pub const fn of_kind(client: Client, lock: LockOf) -> Self {
        Self { client, lock }
    }
}

#[async_trait]
impl Implementation for TenureLocks {
    fn name(&self) -> &'static str {
        "tenure"
    }

    fn waits(&self) -> bool {
        true
    }

    async fn acquire_and_release(
        &self,
        lock: &str,
        held: &(dyn Fn() + Sync),
    ) -> Result<(), Failure> {
        let guard = (self.lock)(&self.client, lock)?.acquire().await?;
        held();
        match guard.release().await {
            Release::Released => Ok(()),
            other => Err(format!("the release returned {other:?}").into()),
        }
    }

    async fn close(&self) {
        self.client.shutdown(CLOSE_TIMEOUT).await;
    }
}
