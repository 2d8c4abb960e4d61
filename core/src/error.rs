//! The one error type: what failed, on what, whether a retry can help, and what may have happened.

use std::{fmt, sync::Arc};

use crate::name::{InvalidName, LockName};

/// What kind of failure it was. Match on this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The client was shut down.
    Closed,
    /// The configuration is wrong, or asks for what this backend cannot do.
    Config,
    /// State of ours in the store is malformed. The message names the key or file.
    Corrupt,
    /// The store has no room: disk full, out of memory, quota.
    Exhausted,
    /// The lock's name is not a name.
    InvalidName,
    /// State in the store was written by a newer version than this one understands.
    NewerFormat,
    /// The request may or may not have been carried out: its answer did not come.
    OutcomeUnknown,
    /// The store knows us and refuses.
    PermissionDenied,
    /// The store answered what its protocol does not allow.
    Protocol,
    /// No answer within the time that the caller gave, and the store was not changed by it.
    Timeout,
    /// The store does not accept our credentials.
    Unauthenticated,
    /// The store could not be reached; nothing was sent.
    Unavailable,
    /// The backend cannot do this.
    Unsupported,
}

impl ErrorKind {
    /// The kind in words, as `Display` shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "the client is closed",
            Self::Config => "wrong configuration",
            Self::Corrupt => "corrupt state",
            Self::Exhausted => "the store is full",
            Self::InvalidName => "invalid name",
            Self::NewerFormat => "state of a newer version",
            Self::OutcomeUnknown => "outcome unknown",
            Self::PermissionDenied => "permission denied",
            Self::Protocol => "unexpected answer",
            Self::Timeout => "timed out",
            Self::Unauthenticated => "not authenticated",
            Self::Unavailable => "store unavailable",
            Self::Unsupported => "not supported",
        }
    }

    /// Whether the same call can succeed later without anybody changing anything.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Exhausted | Self::OutcomeUnknown | Self::Timeout | Self::Unavailable
        )
    }

    /// Whether it is certain that the request changed nothing in the store.
    ///
    /// The core removes an attempt whose request failed in any other way (clause A3).
    #[must_use]
    pub const fn is_without_effect(self) -> bool {
        matches!(
            self,
            Self::Closed
                | Self::Config
                | Self::Corrupt
                | Self::InvalidName
                | Self::NewerFormat
                | Self::PermissionDenied
                | Self::Unauthenticated
                | Self::Unavailable
                | Self::Unsupported
        )
    }
}

/// A failure of an operation on a lock.
///
/// `Display` says what failed, on which lock and backend, and why, in one line and without the
/// source; `source()` gives the cause, whose type is no part of the API's stability. Cheap to
/// clone.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    backend: Option<&'static str>,
    lock: Option<LockName>,
    detail: Option<String>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of that kind in that operation, which reads well after "while": `acquiring`.
    #[must_use]
    pub fn new(kind: ErrorKind, operation: &'static str) -> Self {
        Self(Arc::new(Inner {
            kind,
            operation,
            backend: None,
            lock: None,
            detail: None,
            source: None,
        }))
    }

    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Says in which operation, as when a check was made on behalf of another one.
    #[must_use]
    pub fn with_operation(self, operation: &'static str) -> Self {
        self.edit(|inner| inner.operation = operation)
    }

    /// Names the backend, by its scheme.
    #[must_use]
    pub fn with_backend(self, backend: &'static str) -> Self {
        self.edit(|inner| inner.backend = Some(backend))
    }

    /// Names the lock.
    #[must_use]
    pub fn with_lock(self, lock: LockName) -> Self {
        self.edit(|inner| inner.lock = Some(lock))
    }

    /// Says in a sentence what is wrong and what can be done. It must hold no secret.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        self.edit(|inner| inner.detail = Some(detail.into()))
    }

    /// Attaches the cause. `Display` does not show it.
    #[must_use]
    pub fn with_source(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.edit(|inner| inner.source = Some(Arc::new(source)))
    }

    /// Changes the kind, as when a failure turns out to leave the outcome unknown.
    #[must_use]
    pub fn with_kind(self, kind: ErrorKind) -> Self {
        self.edit(|inner| inner.kind = kind)
    }

    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What was being done.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The backend's scheme, where one was involved.
    #[must_use]
    pub fn backend(&self) -> Option<&'static str> {
        self.0.backend
    }

    /// The lock, where one was involved.
    #[must_use]
    pub fn lock(&self) -> Option<&LockName> {
        self.0.lock.as_ref()
    }

    /// What is wrong in particular.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// Whether the same call can succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }
}

impl From<InvalidName> for Error {
    fn from(invalid: InvalidName) -> Self {
        Self::new(ErrorKind::InvalidName, "checking the lock's name")
            .with_detail(invalid.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        f.write_str(inner.operation)?;
        if let Some(lock) = &inner.lock {
            // Debug: a name may hold line breaks and escape sequences.
            write!(f, " {:?}", lock.as_str())?;
        }
        if let Some(backend) = inner.backend {
            write!(f, " on {backend}")?;
        }
        write!(f, ": {}", inner.kind.as_str())?;
        match &inner.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        f.debug_struct("Error")
            .field("kind", &inner.kind)
            .field("operation", &inner.operation)
            .field("backend", &inner.backend)
            .field("lock", &inner.lock)
            .field("detail", &inner.detail)
            .field("source", &inner.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_and_leaves_the_source_to_source() {
        let error = Error::new(ErrorKind::Unavailable, "acquiring")
            .with_backend("redis")
            .with_lock(LockName::new("a\nb").unwrap())
            .with_detail("nothing listens there")
            .with_source(std::io::Error::other("inner"));
        let text = error.to_string();
        assert_eq!(
            text,
            "acquiring \"a\\nb\" on redis: store unavailable: nothing listens there"
        );
        assert!(std::error::Error::source(&error).is_some());
    }
}
