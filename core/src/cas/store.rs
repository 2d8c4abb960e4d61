//! What a store must offer to the adapter: versioned blobs and compare-and-swap.

use std::fmt;

use async_trait::async_trait;

use crate::{
    backend::BackendInfo,
    capability::Capabilities,
    error::Error,
    id::ClientId,
    name::{LockName, Namespace},
    queue::ClockId,
};

/// Whose state a blob is: the address of one lock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Key {
    /// The application's part of the store.
    pub namespace: Namespace,
    /// The lock.
    pub name: LockName,
}

impl Key {
    /// That address.
    #[must_use]
    pub const fn new(namespace: Namespace, name: LockName) -> Self {
        Self { namespace, name }
    }

    /// Both parts by the table of [`name`](crate::name), with a slash between them: a key that
    /// any store can take whose keys may have 3,073 bytes.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace.encoded(), self.name.encoded())
    }
}

/// Which content of a blob it is, in whatever text the store chooses: an entity tag, a revision.
/// No two contents that a key ever has may share a version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(String);

impl Version {
    /// The version of that text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
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

/// A blob as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Versioned {
    /// Its version.
    pub version: Version,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl Versioned {
    /// That blob.
    #[must_use]
    pub const fn new(version: Version, bytes: Vec<u8>) -> Self {
        Self { version, bytes }
    }
}

/// The outcome of a compare-and-swap that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Swap {
    /// The blob has another version than the expected one, or is absent or present against
    /// expectation. Nothing was changed.
    Conflict,
    /// The blob has the new content, under this version.
    Swapped(Version),
}

/// One page of the names that have a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Names {
    /// The names, as they were given.
    pub names: Vec<LockName>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<String>,
}

impl Names {
    /// That page.
    #[must_use]
    pub const fn new(names: Vec<LockName>, next: Option<String>) -> Self {
        Self { names, next }
    }
}

/// What a store tells about changes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wake {
    /// Messages may have been lost: look at every lock of this client.
    Everything,
    /// This lock changed.
    Lock(LockName),
}

/// A store of versioned blobs. [`Cas`](super::Cas) makes a backend of it.
///
/// # What every method must keep
///
/// - `read` sees every swap that was answered before it was called.
/// - `compare_and_swap` is atomic, and tells the truth: an error whose kind
///   [is without effect](crate::error::ErrorKind::is_without_effect) promises that nothing was
///   changed; where the answer did not come, the kind is
///   [`OutcomeUnknown`](crate::error::ErrorKind::OutcomeUnknown).
/// - A swap that is carried out late, after its future was dropped or its answer was lost, still
///   compares.
/// - Nothing is retried. Any future may be dropped at any await point.
///
/// # Being told
///
/// Without more than the four required methods waiters poll, and the capabilities must say so. A
/// store with a change feed implements [`watching`](Self::watching) and
/// [`next_wake`](Self::next_wake); one with a mailbox for each client implements
/// [`wake`](Self::wake) and [`next_wake`](Self::next_wake). A message that is lost costs time and
/// nothing else.
#[async_trait]
pub trait BlobStore: fmt::Debug + Send + Sync + 'static {
    /// Facts without I/O, no secrets.
    fn info(&self) -> BackendInfo;

    /// What this store can do, as far as it is known now.
    async fn capabilities(&self) -> Result<Capabilities, Error>;

    /// Reads a blob; `None` if there is none.
    async fn read(&self, key: &Key) -> Result<Option<Versioned>, Error>;

    /// Gives a blob new content if it has the expected version; `None` expects that there is no
    /// blob.
    async fn compare_and_swap(
        &self,
        key: &Key,
        expected: Option<&Version>,
        bytes: Vec<u8>,
    ) -> Result<Swap, Error>;

    /// Lists names of the namespace that have a blob and begin with `prefix`: about `limit` of
    /// them, from where the page before ended.
    async fn list(
        &self,
        namespace: &Namespace,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Names, Error>;

    /// Where a person finds the blob, for messages: a path, a URL without secrets.
    fn location(&self, key: &Key) -> String {
        key.path()
    }

    /// What a person deletes to free a lock whose state is broken, for messages.
    fn to_delete(&self, key: &Key) -> String {
        self.location(key)
    }

    /// The identity of the client's clock, if clients other than this one read the same clock and
    /// give it the same identity. `None`, the default: nobody else's stamps can be compared.
    fn clock_id(&self) -> Option<ClockId> {
        None
    }

    /// Told when this client begins (`true`) to have attempts at a lock, and when it has none
    /// any more (`false`).
    fn watching(&self, _key: &Key, _on: bool) {}

    /// Told after a swap that made a waiter of that client the holder, or took its grant away.
    async fn wake(&self, _client: ClientId, _key: &Key) {}

    /// The next thing that the store has to tell this client. Called again and again by one task.
    async fn next_wake(&self) -> Wake {
        std::future::pending().await
    }

    /// Ends the connection. Nothing is called after it.
    async fn close(&self) {}
}
