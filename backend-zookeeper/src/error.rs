//! Errors: what the client crate reports, in the terms of the core.

use tenure_core::error::{Error, ErrorKind};
use zookeeper_client::Error as ZkError;

/// Why a request has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestError {
    /// The request was not sent, and is not going to be.
    NotSent,
    /// The request was handed over, and no answer came.
    Unanswered,
    /// The server refused the request and changed nothing.
    Refused(ZkError),
    /// The answer cannot be decoded.
    Malformed,
}

impl From<ZkError> for RequestError {
    fn from(error: ZkError) -> Self {
        match error {
            ZkError::ConnectionLoss
            | ZkError::ClientClosed
            | ZkError::NoHosts
            | ZkError::Timeout
            // The session's task ended before the answer came.
            | ZkError::UnexpectedError(_)
            | ZkError::Custom(_) => Self::Unanswered,
            ZkError::UnmarshalError { .. } => Self::Malformed,
            error => Self::Refused(error),
        }
    }
}

/// An error of this backend.
pub(crate) fn error(kind: ErrorKind, operation: &'static str, detail: impl Into<String>) -> Error {
    Error::new(kind, operation)
        .with_backend("zookeeper")
        .with_detail(detail)
}

/// The client was closed.
pub(crate) fn closed(operation: &'static str) -> Error {
    error(ErrorKind::Closed, operation, "the client was closed")
}

/// The error of a request that changes the store.
pub(crate) fn of_write(operation: &'static str, path: &str, failure: RequestError) -> Error {
    match failure {
        RequestError::Unanswered | RequestError::Malformed => unanswered(operation),
        failure => of_read(operation, path, failure),
    }
}

/// A request that changes the store was sent, and no answer came.
pub(crate) fn unanswered(operation: &'static str) -> Error {
    error(
        ErrorKind::OutcomeUnknown,
        operation,
        "the server did not answer; whether it carried out the request is not known",
    )
}

/// The error of a request that changes nothing.
pub(crate) fn of_read(operation: &'static str, path: &str, failure: RequestError) -> Error {
    let (kind, detail) = match failure {
        RequestError::NotSent => (
            ErrorKind::Unavailable,
            "the request was not sent, because the connection was lost or has too many other requests \
             under way"
                .to_owned(),
        ),
        RequestError::Unanswered => (
            ErrorKind::Unavailable,
            "the connection was lost before the server answered".to_owned(),
        ),
        RequestError::Malformed => (
            ErrorKind::Protocol,
            "the server's answer cannot be decoded".to_owned(),
        ),
        RequestError::Refused(refusal) => of_refusal(path, &refusal),
    };
    error(kind, operation, detail)
}

fn of_refusal(path: &str, refusal: &ZkError) -> (ErrorKind, String) {
    match refusal {
        ZkError::NoAuth => (
            ErrorKind::PermissionDenied,
            format!(
                "this user lacks a right on `{path}`; compare its rights with those in \
                 docs/backends/zookeeper.md"
            ),
        ),
        ZkError::InvalidAcl => (
            ErrorKind::Config,
            "the servers know no identity of this client that could own its nodes; set \
             `backend.username` and a password, or the option `acl` to \"open\""
                .to_owned(),
        ),
        ZkError::AuthFailed => (
            ErrorKind::Unauthenticated,
            "the servers do not accept the credentials".to_owned(),
        ),
        ZkError::SessionExpired => (
            ErrorKind::Unavailable,
            "the session has expired; the next request begins a new one".to_owned(),
        ),
        ZkError::SessionMoved => (
            ErrorKind::Unavailable,
            "the session has moved to another server".to_owned(),
        ),
        ZkError::QuotaExceeded => (
            ErrorKind::Exhausted,
            format!("the quota above `{path}` is used up"),
        ),
        ZkError::Throttled => (
            ErrorKind::Unavailable,
            "the server is overloaded and refused the request".to_owned(),
        ),
        ZkError::NoNode => (
            ErrorKind::Unavailable,
            format!("`{path}` is gone; another program deletes what this client creates"),
        ),
        ZkError::NoChildrenForEphemerals => (
            ErrorKind::Config,
            format!(
                "no node can be created below an ephemeral node, and `{path}` is one or lies below \
                 one; choose another path in the address or another namespace"
            ),
        ),
        ZkError::NodeExists | ZkError::NotEmpty => (
            ErrorKind::Protocol,
            format!("`{path}` exists already, or is in use"),
        ),
        other => (
            ErrorKind::Protocol,
            format!("the server refused a request about `{path}`: {other}"),
        ),
    }
}
