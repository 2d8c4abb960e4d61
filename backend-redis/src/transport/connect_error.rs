//! Reasons for which a connection cannot be made, in terms of what the operator can fix.

use std::{io, time::Duration};

use redis::RedisError;
use tenure_core::{
    error::{Error, ErrorKind},
    settings::Tls,
};

use crate::address::Endpoint;

/// A failure to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnectError {
    pub(crate) kind: ErrorKind,
    pub(crate) detail: String,
}

impl ConnectError {
    pub(super) fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { kind, detail }
    }

    /// A problem with the TLS files.
    pub(super) fn from_tls(tls: tenure_core::driver::ConnectError) -> Self {
        Self::new(tls.kind, tls.detail)
    }

    /// The server did not answer in time.
    pub(super) fn timed_out(endpoint: &Endpoint, limit: Duration, in_tls_handshake: bool) -> Self {
        // A server without TLS takes the handshake for the beginning of a command and waits for the
        // rest.
        let hint = if in_tls_handshake {
            " to the TLS handshake; does the server use TLS on this port?"
        } else {
            ""
        };
        Self::new(
            ErrorKind::Unavailable,
            format!("{endpoint}: no answer within {limit:?}{hint}"),
        )
    }

    /// A network or TLS error.
    pub(super) fn from_io(endpoint: &Endpoint, error: &io::Error, files: &Tls) -> Self {
        if let Some(tls) = tenure_tls::explain(error, files) {
            return Self::new(tls.kind, format!("{endpoint}: {}", tls.detail));
        }
        let detail = match error.kind() {
            io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
            io::ErrorKind::NotFound => "no such socket".to_owned(),
            io::ErrorKind::TimedOut => "the connection timed out".to_owned(),
            io::ErrorKind::PermissionDenied => "permission to open the socket is denied".to_owned(),
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => {
                "the server closed the connection at once; does it require TLS (a scheme with \
                 `rediss`), or has it reached its limit of clients?"
                    .to_owned()
            }
            _ => one_line(&error.to_string()),
        };
        Self::new(ErrorKind::Unavailable, format!("{endpoint}: {detail}"))
    }

    /// An error reply to the login or to one of the first commands. `io_error` is the last network
    /// error of the connection.
    pub(super) fn from_reply(
        endpoint: &Endpoint,
        step: &str,
        error: &RedisError,
        io_error: Option<Self>,
    ) -> Self {
        let code = error.code().unwrap_or_default();
        // A server that does not know a command repeats its arguments, which may include a
        // password.
        let message = error.to_string();
        let message = message.split(", with args").next().unwrap_or_default();
        let text = one_line(message);
        let code = if text.contains("no permissions") {
            "NOPERM"
        } else {
            code
        };
        let (kind, detail) = match code {
            "NOAUTH" => (
                ErrorKind::Unauthenticated,
                "the server requires a password; set `backend.password_file`".to_owned(),
            ),
            "WRONGPASS" => (
                ErrorKind::Unauthenticated,
                "the user name or password is wrong, or the user is disabled".to_owned(),
            ),
            "NOPERM" => (
                ErrorKind::PermissionDenied,
                format!(
                    "the user lacks a right ({step}: {text}); compare its rights with the ACL \
                     line in docs/operations.md"
                ),
            ),
            "DENIED" => (
                ErrorKind::PermissionDenied,
                "the server is in protected mode and accepts no clients from other hosts"
                    .to_owned(),
            ),
            "LOADING" => (
                ErrorKind::Unavailable,
                "the server is still loading its data".to_owned(),
            ),
            "ERR" if text.contains("switch database") => (
                ErrorKind::Config,
                "the server has no database with this number; see `databases` in its configuration"
                    .to_owned(),
            ),
            "" => return Self::from_client_error(endpoint, error, io_error),
            _ => (ErrorKind::Unavailable, format!("{step}: {text}")),
        };
        Self::new(kind, format!("{endpoint}: {detail}"))
    }

    fn from_client_error(endpoint: &Endpoint, error: &RedisError, io_error: Option<Self>) -> Self {
        let text = one_line(&error.to_string());
        let (kind, detail) = match error.kind() {
            redis::ErrorKind::RESP3NotSupported => (
                ErrorKind::Unsupported,
                "the server is older than Redis 6.2".to_owned(),
            ),
            // Only for RESP2, which is used with sentinels.
            redis::ErrorKind::AuthenticationFailed => (
                ErrorKind::Unauthenticated,
                "the user name or password is wrong".to_owned(),
            ),
            redis::ErrorKind::Parse => (
                ErrorKind::Unavailable,
                "the server does not speak the Redis protocol".to_owned(),
            ),
            _ => match io_error {
                Some(io_error) => return io_error,
                None => (ErrorKind::Unavailable, text),
            },
        };
        Self::new(kind, format!("{endpoint}: {detail}"))
    }

    /// The error for the whole store.
    pub(crate) fn into_error(self) -> Error {
        Error::new(self.kind, "connecting")
            .with_backend("redis")
            .with_detail(self.detail)
    }
}

/// Makes foreign text fit into one line of a message.
pub(super) fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .take(300)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.truncate(line.trim_end().len());
    line
}
