//! Converts errors of the transport and of the server into errors of the core.

use redis::Value;
use tenure_core::error::{Error, ErrorKind};

use crate::transport::CallError;

/// An error of this backend.
pub(crate) fn error(kind: ErrorKind, operation: &'static str, detail: impl Into<String>) -> Error {
    Error::new(kind, operation)
        .with_backend("redis")
        .with_detail(detail)
}

/// The error for a reply that no script of this backend produces.
pub(crate) fn unexpected_reply(operation: &'static str, value: &Value) -> Error {
    let what = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) => "text",
        Value::Array(_) => "a list",
        Value::ServerError(_) => "an error",
        _ => "something else",
    };
    error(
        ErrorKind::Protocol,
        operation,
        format!(
            "the server's reply contains {what} where a script of this backend returns \
                 another type"
        ),
    )
}

/// The error for a call that failed.
pub(crate) fn from_call_error(operation: &'static str, call_error: CallError) -> Error {
    match call_error {
        CallError::NotExecuted { code: None, detail } => {
            error(ErrorKind::Unavailable, operation, detail)
        }
        CallError::NotExecuted {
            code: Some(code),
            detail,
            // A call is sent again only after the server has answered that it did not execute it.
        } => from_reply(operation, &code, &detail).with_no_effect(),
        CallError::OutcomeUnknown(source) => error(
            ErrorKind::OutcomeUnknown,
            operation,
            "the server did not answer; it is unknown whether it executed the request",
        )
        .with_source(source),
        CallError::ScriptFailed { code, detail } => from_reply(operation, &code, &detail),
    }
}

/// The error for an error reply of the server or of a script. The scripts change nothing before the
/// point where they can return one of these errors.
pub(crate) fn from_reply(operation: &'static str, code: &str, detail: &str) -> Error {
    let (kind, text) = match code {
        "TENURE_CORRUPT" => (
            ErrorKind::Corrupt,
            format!(
                "key {} contains data that this backend does not write; delete it if nothing else \
                 uses it",
                quoted(detail)
            ),
        ),
        "TENURE_NEWER" => {
            let (version, key) = detail.split_once(' ').unwrap_or((detail, ""));
            (
                ErrorKind::NewerFormat,
                format!(
                    "key {} was written in format {version}, but this version supports only \
                     formats 1 and 2; update this program",
                    quoted(key)
                ),
            )
        }
        "WRONGTYPE" => (
            ErrorKind::Corrupt,
            "a key of the lock has an unexpected type; find it with `redis-cli --scan --pattern \
             'tenure:*'`"
                .to_owned(),
        ),
        "OOM" => (
            ErrorKind::Exhausted,
            "the server has reached its `maxmemory`".to_owned(),
        ),
        "NOAUTH" | "WRONGPASS" => (
            ErrorKind::Unauthenticated,
            format!("the server replied {code}: {detail}"),
        ),
        "NOPERM" => (ErrorKind::PermissionDenied, missing_rights(detail)),
        "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "READONLY"
        | "NOREPLICAS" | "MISCONF" | "MOVED" | "ASK" | "UNBLOCKED" => (
            ErrorKind::Unavailable,
            format!("the server replied {code}: {detail}"),
        ),
        _ if detail.contains("ACL failure") || detail.contains("can't run this command") => {
            (ErrorKind::PermissionDenied, missing_rights(detail))
        }
        _ => (
            ErrorKind::Protocol,
            format!("the server replied {code}: {detail}"),
        ),
    };
    error(kind, operation, text)
}

/// The server's message about a missing right, without the script position that Redis appends.
fn missing_rights(detail: &str) -> String {
    let message = detail.split(" script: ").next().unwrap_or(detail);
    format!("{message}; compare the user's rights with the ACL line in docs/backends/redis.md")
}

/// Quotes a key so that it fits on one line.
fn quoted(key: &str) -> String {
    format!("{key:?}")
}
