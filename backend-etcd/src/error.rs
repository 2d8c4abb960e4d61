//! Errors of requests, of the connection and of the servers, and how they become errors of the
//! core.

use std::{error::Error as StdError, sync::Arc};

use tenure_core::error::{Error, ErrorKind};
use tonic::Code;

/// Why a request failed.
#[derive(Clone, Debug)]
pub(crate) enum RequestError {
    /// Nothing was sent, because there was no connection.
    Unsent {
        kind: ErrorKind,
        detail: String,
        source: Option<Cause>,
    },
    /// A server rejected the request and changed nothing. With `retry_elsewhere`, another server
    /// may accept it.
    Refused {
        kind: ErrorKind,
        detail: String,
        retry_elsewhere: bool,
    },
    /// The lease of the request does not exist. Nothing was changed.
    LeaseGone,
    /// The requested history is compacted. Nothing was changed.
    Compacted,
    /// The request was sent, but no reply came, or one that allows no conclusion.
    Unanswered {
        detail: String,
        source: Option<Cause>,
    },
    /// The replies show that the operation has failed.
    Failed(Error),
}

impl From<Error> for RequestError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A cause that all entries of a batch can share.
pub(crate) type Cause = Arc<dyn StdError + Send + Sync>;

/// Makes a shared cause the source of an error.
#[derive(Debug)]
struct SharedCause(Cause);

impl std::fmt::Display for SharedCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for SharedCause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// An error of this backend.
pub(crate) fn backend_error(
    kind: ErrorKind,
    operation: &'static str,
    detail: impl Into<String>,
) -> Error {
    Error::new(kind, operation)
        .with_backend("etcd")
        .with_detail(detail)
}

/// The error for a reply that violates the protocol.
pub(crate) fn protocol_error(operation: &'static str) -> Error {
    backend_error(
        ErrorKind::Protocol,
        operation,
        "the server's answer lacks a part that every answer to this request has",
    )
}

impl RequestError {
    /// Adds the endpoint to which nothing could be sent.
    pub(crate) fn at_endpoint(self, endpoint: &str) -> Self {
        match self {
            Self::Unsent {
                kind: ErrorKind::Unavailable,
                detail,
                source,
            } => Self::Unsent {
                kind: ErrorKind::Unavailable,
                detail: format!("{endpoint}: {detail}"),
                source,
            },
            other => other,
        }
    }

    /// No reply came in time.
    pub(crate) fn no_reply() -> Self {
        Self::Unanswered {
            detail: "the server did not answer in time".to_owned(),
            source: None,
        }
    }

    /// A reply lacks a required part.
    pub(crate) fn malformed_reply() -> Self {
        Self::Unanswered {
            detail: "the server's answer lacks a part that it must have".to_owned(),
            source: None,
        }
    }

    /// Whether the server is of no use now, so that the next request should go to another one.
    pub(crate) const fn is_server_failure(&self) -> bool {
        matches!(
            self,
            Self::Unsent { .. }
                | Self::Unanswered { .. }
                | Self::Refused {
                    retry_elsewhere: true,
                    ..
                }
        )
    }

    /// Whether the request may be sent to another server: this one has not applied it and never
    /// will, and the request itself is valid.
    pub(crate) const fn may_retry_elsewhere(&self) -> bool {
        matches!(
            self,
            Self::Unsent {
                kind: ErrorKind::Unavailable,
                ..
            } | Self::Refused {
                retry_elsewhere: true,
                ..
            }
        )
    }

    /// Converts this into the error of an operation.
    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        let (kind, detail, source) = match self {
            Self::Failed(error) => return error,
            Self::Unsent {
                kind,
                detail,
                source,
            } => (kind, detail, source),
            Self::Refused { kind, detail, .. } => (kind, detail, None),
            Self::LeaseGone => (
                ErrorKind::Unavailable,
                "the lease expired in the meantime; try again".to_owned(),
                None,
            ),
            Self::Compacted => (
                ErrorKind::Unavailable,
                "the store compacted its history during the read; try again".to_owned(),
                None,
            ),
            Self::Unanswered { detail, source } => (
                ErrorKind::OutcomeUnknown,
                format!("{detail}; the request may or may not have been applied"),
                source,
            ),
        };
        let error = backend_error(kind, operation, detail);
        match source {
            Some(source) => error.with_source(SharedCause(source)),
            None => error,
        }
    }

    /// Converts this into the error of an operation that changes nothing in the store, answered or
    /// not.
    pub(crate) fn into_read_error(self, operation: &'static str) -> Error {
        let error = self.into_error(operation);
        if error.kind() == ErrorKind::OutcomeUnknown {
            return error
                .with_kind(ErrorKind::Unavailable)
                .with_detail("no server answered in time; check whether the cluster has a leader");
        }
        error
    }
}

impl From<etcd_client::Error> for RequestError {
    fn from(error: etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => from_status(status),
            etcd_client::Error::LeaseKeepAliveError(text) if text.contains("not found") => {
                Self::LeaseGone
            }
            etcd_client::Error::InvalidArgs(_)
            | etcd_client::Error::InvalidUri(_)
            | etcd_client::Error::TransportError(_)
            | etcd_client::Error::EndpointError(_) => Self::Unsent {
                kind: ErrorKind::Config,
                detail: format!("cannot set up the connection: {}", one_line(&error)),
                source: Some(Arc::new(error)),
            },
            other => Self::Unanswered {
                detail: "the connection broke".to_owned(),
                source: Some(Arc::new(other)),
            },
        }
    }
}

fn from_status(status: tonic::Status) -> RequestError {
    let message = status.message().to_owned();
    let Some(message) = server_message(&message) else {
        return from_transport(status);
    };
    let refused = |kind, detail: String, retry_elsewhere| RequestError::Refused {
        kind,
        detail,
        retry_elsewhere,
    };
    let quote = || format!("the server says: {message}");
    if message.contains("requested lease not found") {
        return RequestError::LeaseGone;
    }
    if message.contains("has been compacted") {
        return RequestError::Compacted;
    }
    if message.contains("permission denied") {
        return refused(
            ErrorKind::PermissionDenied,
            "permission denied; grant the role of this user `readwrite` on the prefix of the namespace"
                .to_owned(),
            false,
        );
    }
    if message.contains("user name is empty") {
        return refused(
            ErrorKind::Unauthenticated,
            "the server requires authentication; set `backend.username` and `backend.password_file`"
                .to_owned(),
            false,
        );
    }
    if message.contains("authentication failed")
        || message.contains("invalid auth token")
        || status.code() == Code::Unauthenticated
    {
        return refused(
            ErrorKind::Unauthenticated,
            "the server rejected the user name or the password".to_owned(),
            false,
        );
    }
    if message.contains("authentication is not enabled") {
        return refused(
            ErrorKind::Config,
            "a user name is set, but authentication is disabled on the server; unset \
             `backend.username`, or enable authentication"
                .to_owned(),
            false,
        );
    }
    if message.contains("database space exceeded") {
        return refused(
            ErrorKind::Exhausted,
            "the server's database is full; compact and defragment it, then disarm the alarm"
                .to_owned(),
            false,
        );
    }
    if message.contains("no leader") {
        return refused(
            ErrorKind::Unavailable,
            "the server has no leader; check whether a majority of the members is running"
                .to_owned(),
            true,
        );
    }
    if message.contains("too many requests")
        || message.contains("revision of auth store is old")
        || message.contains("unhealthy cluster")
        || message.contains("is learner")
        || message.contains("not supported for learner")
    {
        return refused(ErrorKind::Unavailable, quote(), true);
    }
    match status.code() {
        // A proposal that timed out, or whose leader changed, may still be applied.
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted
        | Code::Unknown
        | Code::Internal
        | Code::DataLoss => RequestError::Unanswered {
            detail: quote(),
            source: None,
        },
        _ => refused(ErrorKind::Protocol, quote(), false),
    }
}

/// The message of an etcd server; `None` if the error comes from the connection.
fn server_message(message: &str) -> Option<&str> {
    ["etcdserver: ", "auth: "]
        .iter()
        .find_map(|prefix| message.find(prefix).map(|at| &message[at + prefix.len()..]))
}

fn from_transport(status: tonic::Status) -> RequestError {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&status);
    let mut unsent = false;
    let mut last = String::new();
    while let Some(error) = cause {
        unsent |= error.is::<tonic::ConnectError>();
        let text = error.to_string();
        if !text.is_empty() {
            last = text;
        }
        cause = error.source();
    }
    if !unsent {
        return RequestError::Unanswered {
            detail: "the connection broke".to_owned(),
            source: Some(Arc::new(RedactedCause(last))),
        };
    }
    let (kind, detail) = classify_connect_error(&last);
    RequestError::Unsent {
        kind,
        detail,
        source: Some(Arc::new(RedactedCause(last))),
    }
}

/// The kind and the description of a failed connection.
fn classify_connect_error(cause: &str) -> (ErrorKind, String) {
    let lower = cause.to_lowercase();
    let config = |text: &str| (ErrorKind::Config, format!("{text} ({cause})"));
    if lower.contains("unknownissuer") || lower.contains("badsignature") {
        return config(
            "the server's certificate is not signed by a trusted authority; set `ca_file` to its \
             authority",
        );
    }
    if lower.contains("notvalidforname") || lower.contains("not valid for name") {
        return config(
            "the server's certificate is for another host name; use a name that it contains",
        );
    }
    if lower.contains("expired") && lower.contains("certificate") {
        return config("the server's certificate has expired; renew it");
    }
    if lower.contains("invalidcontenttype") || lower.contains("corrupt message") {
        return config(
            "this port of the server does not use TLS; use the scheme `etcd`, or the TLS port",
        );
    }
    if lower.contains("certificaterequired")
        || lower.contains("badcertificate")
        || lower.contains("handshakefailure")
        || lower.contains("unknownca")
    {
        return (
            ErrorKind::Unauthenticated,
            format!(
                "the server rejected the client certificate; check `cert_file` and `key_file` ({cause})"
            ),
        );
    }
    (
        ErrorKind::Unavailable,
        format!("connection failed: {cause}"),
    )
}

/// Only the text of a cause: the error itself contains data that must not be shown, such as
/// requests.
#[derive(Debug)]
struct RedactedCause(String);

impl std::fmt::Display for RedactedCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for RedactedCause {}

fn one_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: Code, message: &str) -> ErrorKind {
        let status = tonic::Status::new(code, message);
        RequestError::from(etcd_client::Error::GRpcStatus(status))
            .into_error("acquiring")
            .kind()
    }

    #[test]
    fn a3_only_rejections_by_a_server_are_without_effect() {
        let timed_out = "etcdserver: request timed out";
        assert_eq!(
            kind(Code::Unavailable, timed_out),
            ErrorKind::OutcomeUnknown
        );
        let changed = "etcdserver: leader changed";
        assert_eq!(kind(Code::Unavailable, changed), ErrorKind::OutcomeUnknown);
        assert_eq!(
            kind(Code::Unknown, "transport error"),
            ErrorKind::OutcomeUnknown
        );
        let none = "etcdserver: no leader";
        assert_eq!(kind(Code::Unavailable, none), ErrorKind::Unavailable);
        let denied = "etcdserver: permission denied";
        assert_eq!(
            kind(Code::PermissionDenied, denied),
            ErrorKind::PermissionDenied
        );
        let full = "etcdserver: mvcc: database space exceeded";
        assert_eq!(kind(Code::ResourceExhausted, full), ErrorKind::Exhausted);
        let lease = tonic::Status::new(Code::NotFound, "etcdserver: requested lease not found");
        let error = RequestError::from(etcd_client::Error::GRpcStatus(lease));
        assert!(matches!(error, RequestError::LeaseGone));
    }
}
