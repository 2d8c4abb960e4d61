//! Reasons for which a connection to Redis cannot be made: the replies of Redis as errors of the core.

use std::io;

use redis::RedisError;
use tenure_core::{
    driver::{ConnectError, one_line},
    error::ErrorKind,
    settings::Tls,
};

use crate::address::Endpoint;

/// The possible causes when the server closes a connection at once.
const CLOSED_HINT: &str = "is it a Redis server, does it require TLS (a scheme with `rediss`), or has it reached its limit of clients?";

/// The end of the message when no answer arrived in time. A server without TLS takes the handshake
/// for the beginning of a command and waits for the rest.
pub(super) const fn no_answer_hint(in_tls_handshake: bool) -> &'static str {
    if in_tls_handshake {
        " to the TLS handshake; does the server use TLS on this port?"
    } else {
        ""
    }
}

/// A network or TLS error.
pub(super) fn from_io(endpoint: &Endpoint, error: &io::Error, files: &Tls) -> ConnectError {
    tenure_tls::explain(error, files)
        .unwrap_or_else(|| ConnectError::from_io(error, CLOSED_HINT))
        .at(endpoint)
}

/// An error reply to the login or to one of the first commands. `io_error` is the last network
/// error of the connection.
pub(super) fn from_reply(
    endpoint: &Endpoint,
    step: &str,
    error: &RedisError,
    io_error: Option<ConnectError>,
) -> ConnectError {
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
                 line in docs/backends/redis.md"
            ),
        ),
        "DENIED" => (
            ErrorKind::PermissionDenied,
            "the server is in protected mode and accepts no clients from other hosts".to_owned(),
        ),
        "LOADING" => (
            ErrorKind::Unavailable,
            "the server is still loading its data".to_owned(),
        ),
        "ERR" if text.contains("max number of clients") => (
            ErrorKind::Exhausted,
            "the server has as many clients as its `maxclients` allows; end other programs or raise \
             that limit"
                .to_owned(),
        ),
        "ERR" if text.contains("switch database") => (
            ErrorKind::Config,
            "the server has no database with this number; see `databases` in its configuration"
                .to_owned(),
        ),
        "" => return from_client_error(endpoint, error, io_error),
        _ => (ErrorKind::Unavailable, format!("{step}: {text}")),
    };
    ConnectError::new(kind, detail).at(endpoint)
}

fn from_client_error(
    endpoint: &Endpoint,
    error: &RedisError,
    io_error: Option<ConnectError>,
) -> ConnectError {
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
        redis::ErrorKind::Parse => {
            return ConnectError::wrong_protocol("Redis").at(endpoint);
        }
        _ => match io_error {
            Some(io_error) => return io_error,
            None => (ErrorKind::Unavailable, text),
        },
    };
    ConnectError::new(kind, detail).at(endpoint)
}
