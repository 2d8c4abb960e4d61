//! What a reply means: an answer, a refusal, or where to go instead.

use redis::{RedisResult, ServerError, Value};

use super::{
    call::{Answer, Fault},
    target::Place,
    trouble::one_line,
};

/// What to do about a reply to a script.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is the answer.
    Done(Answer),
    /// The server does not know the script; it has done nothing. Send the text.
    Unknown,
    /// The slot is served over there now; nothing was done.
    Moved(Place),
    /// For this once the question goes there; nothing was done.
    Ask(Place),
    /// The slot is on the move and its keys are in two places; nothing was done.
    TryAgain(Fault),
    /// This server is a replica now; nothing was done.
    Demoted(Fault),
}

/// Errors with which a server refuses a request before any of it is carried out. Those that can
/// also come from inside of a script come there with its first write, so nothing was done either.
const WITHOUT_EFFECT: &[&str] = &[
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

pub(super) fn judge(reply: RedisResult<Value>, asked: &Place) -> Verdict {
    match reply {
        Ok(Value::ServerError(error)) => refusal(&error, asked),
        Ok(value) => Verdict::Done(Ok(value)),
        Err(error) => Verdict::Done(Err(Fault::Unanswered(error))),
    }
}

fn refusal(error: &ServerError, asked: &Place) -> Verdict {
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
    let fault = || Fault::Refused {
        code: Some(code.to_owned()),
        detail: format!("{asked}: {}", one_line(text)),
    };
    let elsewhere = || {
        let (_slot, place) = text.split_once(' ')?;
        Place::parse(place, asked)
    };
    match code {
        "NOSCRIPT" => Verdict::Unknown,
        "MOVED" => elsewhere().map_or_else(|| Verdict::Done(Err(fault())), Verdict::Moved),
        "ASK" => elsewhere().map_or_else(|| Verdict::Done(Err(fault())), Verdict::Ask),
        "TRYAGAIN" => Verdict::TryAgain(fault()),
        "MASTERDOWN" | "READONLY" => Verdict::Demoted(fault()),
        code if WITHOUT_EFFECT.contains(&code) => Verdict::Done(Err(fault())),
        "NOPERM" if !ran => Verdict::Done(Err(fault())),
        code => Verdict::Done(Err(Fault::Failed {
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

    fn verdict(line: &str) -> Verdict {
        let reply = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        judge(Ok(reply), &Place::tcp("h", 1))
    }

    fn code(line: &str) -> (bool, String) {
        match verdict(line) {
            Verdict::Done(Err(Fault::Refused { code, .. }))
            | Verdict::Demoted(Fault::Refused { code, .. })
            | Verdict::TryAgain(Fault::Refused { code, .. }) => (true, code.unwrap()),
            Verdict::Done(Err(Fault::Failed { code, .. })) => (false, code),
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
            Verdict::Moved(place) => format!("moved {place}"),
            Verdict::Ask(place) => format!("ask {place}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(place("MOVED 3999 10.0.0.1:6381"), "moved 10.0.0.1:6381");
        assert_eq!(place("MOVED 3999 :6381"), "moved h:6381");
        assert_eq!(place("ASK 3999 ::1:6381"), "ask [::1]:6381");
        assert!(matches!(verdict("MOVED rubbish"), Verdict::Done(Err(_))));
        assert!(matches!(
            verdict("NOSCRIPT No matching script."),
            Verdict::Unknown
        ));
        assert!(matches!(verdict("READONLY x"), Verdict::Demoted(_)));
    }
}
