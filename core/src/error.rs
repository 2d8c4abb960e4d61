//! The error type of all operations: what failed, on which lock and backend, whether a retry can
//! help, and whether the request may have had an effect.

use std::{fmt, sync::Arc};

use crate::name::{InvalidName, LockName};

/// The kind of a failure. Callers match on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The client was shut down.
    Closed,
    /// The configuration is invalid, or requires something that this backend does not support.
    Config,
    /// This framework's state in the store is malformed. The message contains the key or file.
    Corrupt,
    /// The store is full: disk, memory or quota.
    Exhausted,
    /// The lock's name is invalid.
    InvalidName,
    /// The state in the store was written by a newer version of this framework.
    NewerFormat,
    /// The store did not answer: the request may or may not have been executed.
    OutcomeUnknown,
    /// The store denies the operation to the authenticated client.
    PermissionDenied,
    /// The store's answer violates its protocol.
    Protocol,
    /// The store did not answer within the caller's time limit, and the request changes nothing in
    /// the store.
    Timeout,
    /// The store rejects the client's credentials.
    Unauthenticated,
    /// The store is unreachable, or it did not answer a read. Nothing was changed.
    Unavailable,
    /// The backend does not support the operation.
    Unsupported,
}

impl ErrorKind {
    /// Returns the kind in words, as `Display` shows it.
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

    /// Returns whether the same call can succeed later without any other change.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Exhausted | Self::OutcomeUnknown | Self::Timeout | Self::Unavailable
        )
    }

    /// Returns whether the request certainly changed nothing in the store.
    ///
    /// After any other kind of failure of its request, the core removes the attempt (clause A3).
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
/// `Display` writes one line with the operation, the lock, the backend and the reason, without the
/// source. `source()` returns the cause; its type is not a stable part of the API. Cheap to clone.
///
/// `Debug` writes the same line followed by the causes, because a `main` that returns this error
/// prints it with `{:?}`. `{:#?}` writes the fields.
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
    /// Whether the request had no effect although the kind leaves that open.
    no_effect: bool,
}

impl Error {
    /// Creates an error. `operation` is a phrase that can follow "while": `acquiring`.
    #[must_use]
    pub fn new(kind: ErrorKind, operation: &'static str) -> Self {
        Self(Arc::new(Inner {
            kind,
            operation,
            backend: None,
            lock: None,
            detail: None,
            source: None,
            no_effect: false,
        }))
    }

    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Sets the operation, for a check that was made on behalf of another operation.
    #[must_use]
    pub fn with_operation(self, operation: &'static str) -> Self {
        self.edit(|inner| inner.operation = operation)
    }

    /// Sets the backend's scheme.
    #[must_use]
    pub fn with_backend(self, backend: &'static str) -> Self {
        self.edit(|inner| inner.backend = Some(backend))
    }

    /// Sets the lock.
    #[must_use]
    pub fn with_lock(self, lock: LockName) -> Self {
        self.edit(|inner| inner.lock = Some(lock))
    }

    /// Sets the detail: what is wrong and how to fix it. It must contain no secret.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        self.edit(|inner| inner.detail = Some(detail.into()))
    }

    /// Sets the cause. `Display` does not show it.
    #[must_use]
    pub fn with_source(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.edit(|inner| inner.source = Some(Arc::new(source)))
    }

    /// Changes the kind, for example when the outcome of a failed request is unknown. What
    /// [`with_no_effect`](Self::with_no_effect) said is forgotten.
    #[must_use]
    pub fn with_kind(self, kind: ErrorKind) -> Self {
        self.edit(|inner| {
            inner.kind = kind;
            inner.no_effect = false;
        })
    }

    /// States that the request changed nothing and never will: every copy of it that was sent was
    /// answered by a refusal. For kinds that leave this open, such as
    /// [`Exhausted`](ErrorKind::Exhausted).
    #[must_use]
    pub fn with_no_effect(self) -> Self {
        self.edit(|inner| inner.no_effect = true)
    }

    /// Returns whether the request certainly changed nothing in the store: its kind [says
    /// so](ErrorKind::is_without_effect), or the backend did.
    #[must_use]
    pub fn is_without_effect(&self) -> bool {
        self.0.no_effect || self.0.kind.is_without_effect()
    }

    /// Returns the kind of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the operation that failed.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Returns the backend's scheme, if a backend was involved.
    #[must_use]
    pub fn backend(&self) -> Option<&'static str> {
        self.0.backend
    }

    /// Returns the lock, if a lock was involved.
    #[must_use]
    pub fn lock(&self) -> Option<&LockName> {
        self.0.lock.as_ref()
    }

    /// Returns the detail of the failure.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// Returns whether the same call can succeed later without any other change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }
}

impl Error {
    /// Returns the text of `Display` and of all causes, in one line.
    fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let shown = error.to_string().replace(char::is_control, " ");
            // Some libraries repeat the cause in the text of the outer error.
            if !text.contains(&shown) {
                text.push_str(": ");
                text.push_str(&shown);
            }
            cause = error.source();
        }
        text
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
            // Escaped, because a name can contain line breaks and escape sequences.
            write!(f, " {:?}", lock.as_str())?;
        }
        if let Some(backend) = inner.backend {
            let preposition = match inner.operation {
                "connecting" => "to",
                _ => "on",
            };
            write!(f, " {preposition} {backend}")?;
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
        if !f.alternate() {
            return f.write_str(&self.with_causes());
        }
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
    fn display_is_one_line_without_the_source() {
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

    #[test]
    fn debug_is_the_same_line_with_each_cause_once_and_alternate_debug_shows_the_fields() {
        let inner = std::io::Error::other("disk\non fire");
        let error = Error::new(ErrorKind::Unavailable, "acquiring").with_source(inner);
        let line = "acquiring: store unavailable: disk on fire";
        assert_eq!(format!("{error:?}"), line);
        let outer = Error::new(ErrorKind::Unavailable, "acquiring")
            .with_detail("disk on fire")
            .with_source(std::io::Error::other("disk on fire"));
        assert_eq!(format!("{outer:?}"), line);
        let fields = format!("{error:#?}");
        assert!(fields.contains("kind: Unavailable"), "{fields}");
    }
}
