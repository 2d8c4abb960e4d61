//! The store of the adapter: versioned blobs with compare-and-swap.

use std::{any::Any, fmt, time::Duration};

use async_trait::async_trait;

use crate::{
    backend::BackendInfo,
    capability::Capabilities,
    error::Error,
    id::ClientId,
    name::{LockName, Namespace},
    queue::ClockId,
};

/// The key of a blob: the address of one lock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Key {
    /// The namespace.
    pub namespace: Namespace,
    /// The lock.
    pub name: LockName,
}

impl Key {
    /// Creates a key.
    #[must_use]
    pub const fn new(namespace: Namespace, name: LockName) -> Self {
        Self { namespace, name }
    }

    /// Returns both parts, encoded by the table of [`name`](crate::name) and separated by a slash.
    /// The path has at most 3,073 bytes.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace.encoded(), self.name.encoded())
    }
}

/// The version of a blob's content, as a text that the store chooses: an entity tag, a revision.
/// Different contents of a key must never have the same version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(String);

impl Version {
    /// Creates a version from a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A blob with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Versioned {
    /// The version.
    pub version: Version,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Versioned {
    /// Creates a blob.
    #[must_use]
    pub const fn new(version: Version, bytes: Vec<u8>) -> Self {
        Self { version, bytes }
    }
}

/// The answer to a compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Swap {
    /// The blob's version is not the expected one, or the blob is unexpectedly absent or present.
    /// Nothing was changed.
    Conflict,
    /// The blob has the new content, with this version.
    Swapped(Version),
}

/// One page of the lock names that have a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Names {
    /// The names, as they were given.
    pub names: Vec<LockName>,
    /// The cursor of the next page; `None` after the last page.
    pub next: Option<String>,
}

impl Names {
    /// Creates a page.
    #[must_use]
    pub const fn new(names: Vec<LockName>, next: Option<String>) -> Self {
        Self { names, next }
    }
}

/// A message of the store about changes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wake {
    /// Messages may have been lost: recheck every lock of this client.
    Everything,
    /// This lock changed.
    Lock(LockName),
}

/// The permit to prepare the next swap of a blob, returned when it is dropped.
#[must_use]
pub struct SwapPermit(#[expect(dead_code, reason = "only dropped")] Box<dyn Any + Send>);

impl SwapPermit {
    /// Creates a permit that is returned when `held` is dropped.
    pub fn new(held: impl Any + Send) -> Self {
        Self(Box::new(held))
    }
}

impl fmt::Debug for SwapPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SwapPermit")
    }
}

/// A store of versioned blobs. [`Cas`](super::Cas) turns it into a backend.
///
/// # Requirements for every method
///
/// - `read` sees every swap that was answered before the call of `read`.
/// - `compare_and_swap` is atomic and reports its outcome correctly. An error that [is without
///   effect](crate::error::Error::is_without_effect) guarantees that nothing was changed. If no answer arrived, the kind is
///   [`OutcomeUnknown`](crate::error::ErrorKind::OutcomeUnknown).
/// - A swap that the store executes late, after its future was dropped or its answer was lost,
///   still compares the version.
/// - No method retries. Any future may be dropped at any await point.
///
/// # Notifications
///
/// If a store implements only the required methods, waiters poll, and the capabilities must
/// declare it. A store with a change feed implements [`watching`](Self::watching) and
/// [`next_wake`](Self::next_wake). A store with a mailbox for each client implements
/// [`wake`](Self::wake) and [`next_wake`](Self::next_wake). A lost message costs only time.
#[async_trait]
pub trait BlobStore: fmt::Debug + Send + Sync + 'static {
    /// Returns facts without I/O and without secrets.
    fn info(&self) -> BackendInfo;

    /// Returns what this store can do, as far as it is known now. Its takeover bound is not used: the
    /// adapter declares its own, which depends on [`clock_id`](Self::clock_id) and on how waiters
    /// learn of changes.
    async fn capabilities(&self) -> Result<Capabilities, Error>;

    /// Reads a blob; `None` if it does not exist.
    async fn read(&self, key: &Key) -> Result<Option<Versioned>, Error>;

    /// Replaces a blob's content if it has the expected version. `None` expects that the blob does
    /// not exist.
    async fn compare_and_swap(
        &self,
        key: &Key,
        expected: Option<&Version>,
        bytes: Vec<u8>,
    ) -> Result<Swap, Error>;

    /// Reads a blob in order to swap it. A store that many clients use at once can let them read and
    /// swap one after the other: it returns a permit with the blob, after a wait of at most `limit`.
    /// `conflicted` tells whether the caller has met a conflict. The default only reads.
    ///
    /// A permit reduces the number of conflicts and has no other effect: a swap without it is as
    /// valid. A client that keeps its permit, because it was stopped, must delay the others by a
    /// bounded time only.
    async fn read_to_swap(
        &self,
        key: &Key,
        _limit: Duration,
        _conflicted: bool,
    ) -> Result<(Option<Versioned>, Option<SwapPermit>), Error> {
        Ok((self.read(key).await?, None))
    }

    /// Lists the names of the namespace that have a blob and begin with `prefix`: about `limit`
    /// names, from the cursor of the previous page.
    async fn list(
        &self,
        namespace: &Namespace,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Names, Error>;

    /// Deletes a blob if it has the expected version, and returns whether nothing of it is left. The
    /// default deletes nothing.
    async fn delete(&self, _key: &Key, _expected: &Version) -> Result<bool, Error> {
        Ok(false)
    }

    /// Returns where a user finds the blob, for messages: a path, a URL without secrets.
    fn location(&self, key: &Key) -> String {
        key.path()
    }

    /// Returns what a user must delete to free a lock with corrupt state, for messages.
    fn to_delete(&self, key: &Key) -> String {
        self.location(key)
    }

    /// Returns the identity of the client's clock, if other clients read the same clock and return
    /// the same identity. With `None`, the default, stamps of other clients are not comparable.
    fn clock_id(&self) -> Option<ClockId> {
        None
    }

    /// Returns whether all clients of the store read the same clock. Then the adapter declares a shorter
    /// takeover bound. Default: no.
    fn has_one_clock(&self) -> bool {
        false
    }

    /// Called when this client has its first attempt at a lock (`true`), and when it has no attempt
    /// there any more (`false`).
    fn watching(&self, _key: &Key, _on: bool) {}

    /// Called after a swap that made a waiter of `client` the holder, or revoked its grant.
    async fn wake(&self, _client: ClientId, _key: &Key) {}

    /// Waits for the store's next message to this client. One task calls it repeatedly.
    async fn next_wake(&self) -> Wake {
        std::future::pending().await
    }

    /// Closes the connection. The adapter calls no method after it.
    async fn close(&self) {}
}
