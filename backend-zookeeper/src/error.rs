//! What went wrong on the way to the servers or on them, in the words of the core.

use tenure_core::error::{Error, ErrorKind};

use crate::wire::{conn::Fault, proto::Code};

/// An error of this backend.
pub(crate) fn error(kind: ErrorKind, operation: &'static str, detail: impl Into<String>) -> Error {
    Error::new(kind, operation)
        .with_backend("zookeeper")
        .with_detail(detail)
}

/// A fault of a request that changes the store.
pub(crate) fn of_write(operation: &'static str, path: &str, fault: Fault) -> Error {
    match fault {
        Fault::Unanswered => unanswered(operation),
        fault => of_read(operation, path, fault),
    }
}

/// A request that changes the store was sent, and no answer came.
pub(crate) fn unanswered(operation: &'static str) -> Error {
    error(
        ErrorKind::OutcomeUnknown,
        operation,
        "the server did not answer; whether it has carried the request out is not known",
    )
}

/// A fault of a request that changes nothing.
pub(crate) fn of_read(operation: &'static str, path: &str, fault: Fault) -> Error {
    let (kind, detail) = match fault {
        Fault::Unsent => (
            ErrorKind::Unavailable,
            "the connection was lost before anything was sent".to_owned(),
        ),
        Fault::Unanswered => (
            ErrorKind::Unavailable,
            "the connection was lost before the server answered".to_owned(),
        ),
        Fault::Malformed => (
            ErrorKind::Protocol,
            "the server's answer cannot be read".to_owned(),
        ),
        Fault::Refused(code) => match code {
            Code::NoAuth => (
                ErrorKind::PermissionDenied,
                format!(
                    "this user may not do that with `{path}`; compare its rights with those in \
                     docs/operations.md"
                ),
            ),
            Code::InvalidAcl => (
                ErrorKind::Config,
                "the servers know no identity of ours to give the nodes to; set `backend.username` \
                 and a password, or the option `acl` to \"open\""
                    .to_owned(),
            ),
            Code::AuthFailed => (
                ErrorKind::Unauthenticated,
                "the servers do not accept our credentials".to_owned(),
            ),
            Code::SessionExpired => (
                ErrorKind::Unavailable,
                "the session has expired; a new one is made for what comes next".to_owned(),
            ),
            Code::SessionMoved => (
                ErrorKind::Unavailable,
                "the session has moved to another server meanwhile".to_owned(),
            ),
            Code::QuotaExceeded => (
                ErrorKind::Exhausted,
                format!("the quota above `{path}` is used up"),
            ),
            Code::Throttled => (
                ErrorKind::Unavailable,
                "the server has too much to do and refused the request".to_owned(),
            ),
            Code::NoNode => (
                ErrorKind::Unavailable,
                format!("`{path}` is gone; somebody deletes what is made there"),
            ),
            Code::NodeExists | Code::NotEmpty => (
                ErrorKind::Protocol,
                format!("`{path}` is in the way, or in use"),
            ),
            Code::Other(number) => (
                ErrorKind::Protocol,
                format!("the server answered with error {number} about `{path}`"),
            ),
        },
    };
    error(kind, operation, detail)
}
