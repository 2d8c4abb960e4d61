//! What went wrong on the way to the servers or on them, in the words of the core.

use std::{error::Error as StdError, sync::Arc};

use tenure_core::error::{Error, ErrorKind};
use tonic::Code;

/// Why a request came to nothing.
#[derive(Clone, Debug)]
pub(crate) enum RequestError {
    /// Nothing was sent: there was no connection.
    Unsent {
        kind: ErrorKind,
        detail: String,
        source: Option<Cause>,
    },
    /// A server has refused it, and has changed nothing. With `retry_elsewhere` another server may take it.
    Refused {
        kind: ErrorKind,
        detail: String,
        retry_elsewhere: bool,
    },
    /// The lease of the request does not exist. Nothing was changed.
    LeaseGone,
    /// The history that was asked for is compacted. Nothing was changed.
    Compacted,
    /// It was sent and not answered, or by an answer from which nothing follows.
    Unanswered {
        detail: String,
        source: Option<Cause>,
    },
}

/// A cause that can be shared by all the entries of a batch.
pub(crate) type Cause = Arc<dyn StdError + Send + Sync>;

/// Gives a shared cause to an error.
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

/// The servers answered what the protocol does not allow.
pub(crate) fn protocol_error(operation: &'static str) -> Error {
    backend_error(
        ErrorKind::Protocol,
        operation,
        "the server's answer lacks a part that every answer to this request has",
    )
}

impl RequestError {
    /// Says at which server nothing could be sent.
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

    /// No answer came in time.
    pub(crate) fn no_reply() -> Self {
        Self::Unanswered {
            detail: "the server has not answered in time".to_owned(),
            source: None,
        }
    }

    /// An answer without a part that it must have.
    pub(crate) fn malformed_reply() -> Self {
        Self::Unanswered {
            detail: "the server's answer lacks a part that it must have".to_owned(),
            source: None,
        }
    }

    /// Whether the server is of no use now, so that the next request better goes to another one.
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

    /// Whether the request may be sent to another server: this one has not carried it out and will
    /// not, and it is not the request that is wrong.
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

    /// As the error of an operation.
    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        let (kind, detail, source) = match self {
            Self::Unsent {
                kind,
                detail,
                source,
            } => (kind, detail, source),
            Self::Refused { kind, detail, .. } => (kind, detail, None),
            Self::LeaseGone => (
                ErrorKind::Unavailable,
                "the lease has expired meanwhile; try again".to_owned(),
                None,
            ),
            Self::Compacted => (
                ErrorKind::Unavailable,
                "the store's history was compacted while it was read; try again".to_owned(),
                None,
            ),
            Self::Unanswered { detail, source } => (
                ErrorKind::OutcomeUnknown,
                format!("{detail}; whether the request was carried out is not known"),
                source,
            ),
        };
        let error = backend_error(kind, operation, detail);
        match source {
            Some(source) => error.with_source(SharedCause(source)),
            None => error,
        }
    }

    /// As the error of an operation that changes nothing in the store, answered or not.
    pub(crate) fn into_read_error(self, operation: &'static str) -> Error {
        let error = self.into_error(operation);
        if error.kind() == ErrorKind::OutcomeUnknown {
            return error.with_kind(ErrorKind::Unavailable).with_detail(
                "no server has answered in time; see whether the cluster has a leader",
            );
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
                detail: format!("the connection cannot be set up: {}", one_line(&error)),
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
            "this user may not do that; grant its role `readwrite` on the prefix of the namespace"
                .to_owned(),
            false,
        );
    }
    if message.contains("user name is empty") {
        return refused(
            ErrorKind::Unauthenticated,
            "the server asks who we are; set `backend.username` and `backend.password_file`"
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
            "the server does not accept this user or its password".to_owned(),
            false,
        );
    }
    if message.contains("authentication is not enabled") {
        return refused(
            ErrorKind::Config,
            "a user name is set, and authentication is switched off on the server; unset \
             `backend.username`, or switch it on"
                .to_owned(),
            false,
        );
    }
    if message.contains("database space exceeded") {
        return refused(
            ErrorKind::Exhausted,
            "the server's database is full; compact and defragment it, and disarm the alarm"
                .to_owned(),
            false,
        );
    }
    if message.contains("no leader") {
        return refused(
            ErrorKind::Unavailable,
            "the server knows of no leader; see whether a majority of the members runs".to_owned(),
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
        // A proposal that has timed out, or whose leader has changed, may be carried out all the
        // same.
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

/// What a server of etcd has said, if it was one that spoke, and not the connection.
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

/// What kept a connection from coming about, in words.
fn classify_connect_error(cause: &str) -> (ErrorKind, String) {
    let lower = cause.to_lowercase();
    let config = |text: &str| (ErrorKind::Config, format!("{text} ({cause})"));
    if lower.contains("unknownissuer") || lower.contains("badsignature") {
        return config(
            "the server's certificate is signed by nobody that is trusted; name its authority in \
             `ca_file`",
        );
    }
    if lower.contains("notvalidforname") || lower.contains("not valid for name") {
        return config(
            "the server's certificate is for another host name; use a name that stands in it",
        );
    }
    if lower.contains("expired") && lower.contains("certificate") {
        return config("the server's certificate has expired; renew it");
    }
    if lower.contains("invalidcontenttype") || lower.contains("corrupt message") {
        return config(
            "the server does not speak TLS there; use the scheme `etcd`, or its TLS port",
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
                "the server does not accept our certificate; see `cert_file` and `key_file` ({cause})"
            ),
        );
    }
    (
        ErrorKind::Unavailable,
        format!("no connection could be made: {cause}"),
    )
}

/// The words of a cause alone: the error itself holds what is not to be shown, such as requests.
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
    fn a3_only_what_a_server_refuses_is_without_effect() {
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
