//! Classifies a reply: result, rejection, or redirection.

use redis::{ServerError, Value};

use tenure_core::driver::one_line;

use super::script_call::{CallError, CallResult};
use crate::address::Endpoint;

/// The meaning of a reply to a script call.
#[derive(Debug)]
pub(super) enum ReplyClass {
    /// The reply is the result.
    Final(CallResult),
    /// The server does not know the script and executed nothing. The source has to be sent.
    UnknownScript,
    /// Another node serves the slot now; nothing was executed.
    Moved(Endpoint),
    /// This request alone has to go to another node; nothing was executed.
    Ask(Endpoint),
    /// The slot is moving and its keys are on two nodes; nothing was executed.
    TryAgain(CallError),
    /// This server has become a replica; nothing was executed.
    Demoted(CallError),
}

/// Error codes with which a server rejects a request before executing any of it. A script can also
/// end with some of these codes, but only at its first write, so nothing was executed then either.
const NOT_EXECUTED_CODES: &[&str] = &[
    "BUSY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOAUTH",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "TRYAGAIN",
];

pub(super) fn classify(reply: Value, endpoint: &Endpoint) -> ReplyClass {
    match reply {
        Value::ServerError(error) => classify_error(&error, endpoint),
        value => ReplyClass::Final(Ok(value)),
    }
}

fn classify_error(error: &ServerError, endpoint: &Endpoint) -> ReplyClass {
    let text = error.details().unwrap_or_default();
    let inside_script = text.contains("user_script");
    // Servers before 7.0 append the error of a command inside a script to the position in the
    // script.
    let (code, text) = match (inside_script && error.code() == "ERR")
        .then(|| nested_error(text))
        .flatten()
    {
        Some((code, text)) => (code, text),
        None => (error.code(), text),
    };
    let not_executed = || CallError::NotExecuted {
        code: Some(code.to_owned()),
        detail: format!("{endpoint}: {}", one_line(text)),
    };
    let redirect_endpoint = || {
        let (_slot, address) = text.split_once(' ')?;
        Endpoint::parse(address, endpoint)
    };
    match code {
        "NOSCRIPT" => ReplyClass::UnknownScript,
        "MOVED" => redirect_endpoint()
            .map_or_else(|| ReplyClass::Final(Err(not_executed())), ReplyClass::Moved),
        "ASK" => redirect_endpoint()
            .map_or_else(|| ReplyClass::Final(Err(not_executed())), ReplyClass::Ask),
        "TRYAGAIN" => ReplyClass::TryAgain(not_executed()),
        "MASTERDOWN" | "READONLY" => ReplyClass::Demoted(not_executed()),
        code if NOT_EXECUTED_CODES.contains(&code) => ReplyClass::Final(Err(not_executed())),
        "NOPERM" if !inside_script => ReplyClass::Final(Err(not_executed())),
        code => ReplyClass::Final(Err(CallError::ScriptFailed {
            code: code.to_owned(),
            detail: one_line(text),
        })),
    }
}

/// Extracts `CODE` and the rest from `Error running script ...: @user_script: 4: -CODE rest`.
fn nested_error(text: &str) -> Option<(&str, &str)> {
    let (_, error) = text.rsplit_once(": -")?;
    let (code, rest) = error.split_once(' ')?;
    let is_code = !code.is_empty() && code.bytes().all(|b| b.is_ascii_uppercase());
    is_code.then_some((code, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of(line: &str) -> ReplyClass {
        let reply = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        classify(reply, &Endpoint::tcp("h", 1))
    }

    fn code(line: &str) -> (bool, String) {
        match class_of(line) {
            ReplyClass::Final(Err(CallError::NotExecuted { code, .. }))
            | ReplyClass::Demoted(CallError::NotExecuted { code, .. })
            | ReplyClass::TryAgain(CallError::NotExecuted { code, .. }) => (true, code.unwrap()),
            ReplyClass::Final(Err(CallError::ScriptFailed { code, .. })) => (false, code),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn rejection_is_distinguished_from_script_failure() {
        for (line, refused, word) in [
            (
                "LOADING Redis is loading the dataset in memory",
                true,
                "LOADING",
            ),
            ("BUSY Redis is busy running a script.", true, "BUSY"),
            (
                "READONLY You can't write against a read only replica.",
                true,
                "READONLY",
            ),
            (
                "NOPERM this user has no permissions to run the 'evalsha' command",
                true,
                "NOPERM",
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'. script: ab, on @user_script:1.",
                true,
                "OOM",
            ),
            // The user was allowed to start the script but not to run one of its commands.
            (
                "NOPERM this user has no permissions to run the 'publish' command script: ab, on @user_script:3.",
                false,
                "NOPERM",
            ),
            (
                "WRONGTYPE Operation against a key holding the wrong kind of value script: ab, on @user_script:1.",
                false,
                "WRONGTYPE",
            ),
            ("NEWER 7 k", false, "NEWER"),
            ("ERR value is not an integer or out of range", false, "ERR"),
            // The format of Redis 6.2.
            (
                "ERR Error running script (call to f_ab): @user_script:1: @user_script: 1: -OOM command not allowed",
                true,
                "OOM",
            ),
            (
                "ERR Error running script (call to f_ab): @user_script:1: @user_script: 1: -NOPERM this user",
                false,
                "NOPERM",
            ),
            (
                "ERR Error running script (call to f_ab): @user_script:1: attempt to index a nil value",
                false,
                "ERR",
            ),
        ] {
            assert_eq!(code(line), (refused, word.to_owned()), "{line}");
        }
    }

    #[test]
    fn redirection_names_the_endpoint() {
        let endpoint = |line| match class_of(line) {
            ReplyClass::Moved(endpoint) => format!("moved {endpoint}"),
            ReplyClass::Ask(endpoint) => format!("ask {endpoint}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(endpoint("MOVED 3999 10.0.0.1:6381"), "moved 10.0.0.1:6381");
        assert_eq!(endpoint("MOVED 3999 :6381"), "moved h:6381");
        assert_eq!(endpoint("ASK 3999 ::1:6381"), "ask [::1]:6381");
        assert!(matches!(
            class_of("MOVED rubbish"),
            ReplyClass::Final(Err(_))
        ));
        assert!(matches!(
            class_of("NOSCRIPT No matching script."),
            ReplyClass::UnknownScript
        ));
        assert!(matches!(class_of("READONLY x"), ReplyClass::Demoted(_)));
    }
}
