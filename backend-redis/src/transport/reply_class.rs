//! What a reply means: an answer, a refusal, or where to go instead.

use redis::{RedisResult, ServerError, Value};

use super::{
    connect_error::one_line,
    script_call::{CallError, CallResult},
};
use crate::address::Endpoint;

/// What to do about a reply to a script.
#[derive(Debug)]
pub(super) enum ReplyClass {
    /// It is the answer.
    Done(CallResult),
    /// The server does not know the script; it has done nothing. Send the text.
    Unknown,
    /// The slot is served over there now; nothing was done.
    Moved(Endpoint),
    /// For this once the question goes there; nothing was done.
    Ask(Endpoint),
    /// The slot is on the move and its keys are in two places; nothing was done.
    TryAgain(CallError),
    /// This server is a replica now; nothing was done.
    Demoted(CallError),
}

/// Errors with which a server refuses a request before any of it is carried out. Those that can
/// also come from inside of a script come there with its first write, so nothing was done either.
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

pub(super) fn judge(reply: RedisResult<Value>, asked: &Endpoint) -> ReplyClass {
    match reply {
        Ok(Value::ServerError(error)) => refusal(&error, asked),
        Ok(value) => ReplyClass::Done(Ok(value)),
        Err(error) => ReplyClass::Done(Err(CallError::Unanswered(error))),
    }
}

fn refusal(error: &ServerError, asked: &Endpoint) -> ReplyClass {
    let text = error.details().unwrap_or_default();
    let ran = text.contains("user_script");
    // Servers before 7.0 put the error of a command inside of a script behind the place in it.
    let (code, text) = match (ran && error.code() == "ERR")
        .then(|| inner(text))
        .flatten()
    {
        Some((code, text)) => (code, text),
        None => (error.code(), text),
    };
    let fault = || CallError::Refused {
        code: Some(code.to_owned()),
        detail: format!("{asked}: {}", one_line(text)),
    };
    let elsewhere = || {
        let (_slot, place) = text.split_once(' ')?;
        Endpoint::parse(place, asked)
    };
    match code {
        "NOSCRIPT" => ReplyClass::Unknown,
        "MOVED" => elsewhere().map_or_else(|| ReplyClass::Done(Err(fault())), ReplyClass::Moved),
        "ASK" => elsewhere().map_or_else(|| ReplyClass::Done(Err(fault())), ReplyClass::Ask),
        "TRYAGAIN" => ReplyClass::TryAgain(fault()),
        "MASTERDOWN" | "READONLY" => ReplyClass::Demoted(fault()),
        code if NOT_EXECUTED_CODES.contains(&code) => ReplyClass::Done(Err(fault())),
        "NOPERM" if !ran => ReplyClass::Done(Err(fault())),
        code => ReplyClass::Done(Err(CallError::Failed {
            code: code.to_owned(),
            detail: one_line(text),
        })),
    }
}

/// `CODE` and the rest out of `Error running script ...: @user_script: 4: -CODE rest`.
fn inner(text: &str) -> Option<(&str, &str)> {
    let (_, error) = text.rsplit_once(": -")?;
    let (code, rest) = error.split_once(' ')?;
    let sound = !code.is_empty() && code.bytes().all(|b| b.is_ascii_uppercase());
    sound.then_some((code, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(line: &str) -> ReplyClass {
        let reply = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        judge(Ok(reply), &Endpoint::tcp("h", 1))
    }

    fn code(line: &str) -> (bool, String) {
        match verdict(line) {
            ReplyClass::Done(Err(CallError::Refused { code, .. }))
            | ReplyClass::Demoted(CallError::Refused { code, .. })
            | ReplyClass::TryAgain(CallError::Refused { code, .. }) => (true, code.unwrap()),
            ReplyClass::Done(Err(CallError::Failed { code, .. })) => (false, code),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn refusals_are_told_from_failures_of_the_script() {
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
            // A script that was let begin, and then was not let do one thing.
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
            // As 6.2 says it.
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
    fn redirections_name_the_place() {
        let place = |line| match verdict(line) {
            ReplyClass::Moved(place) => format!("moved {place}"),
            ReplyClass::Ask(place) => format!("ask {place}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(place("MOVED 3999 10.0.0.1:6381"), "moved 10.0.0.1:6381");
        assert_eq!(place("MOVED 3999 :6381"), "moved h:6381");
        assert_eq!(place("ASK 3999 ::1:6381"), "ask [::1]:6381");
        assert!(matches!(verdict("MOVED rubbish"), ReplyClass::Done(Err(_))));
        assert!(matches!(
            verdict("NOSCRIPT No matching script."),
            ReplyClass::Unknown
        ));
        assert!(matches!(verdict("READONLY x"), ReplyClass::Demoted(_)));
    }
}
