//! Polling for a condition with a time limit.

use std::{thread, time::Duration};

use tenure_core::clock::{Clock, SystemClock};

use crate::Error;

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// The state of a condition.
pub(crate) enum Condition<T> {
    /// The condition holds.
    Ready(T),
    /// The condition does not hold yet, for this reason.
    NotYet(String),
    /// The condition will never hold.
    Failed(Error),
}

impl<T> Condition<T> {
    /// Converts a result; an error means "not yet".
    pub(crate) fn from_answer(answer: Result<T, Error>) -> Self {
        match answer {
            Ok(found) => Self::Ready(found),
            Err(error) => Self::NotYet(error.to_string()),
        }
    }
}

/// Polls until the condition holds, at most for `bound`; `what` names the condition in the error.
pub(crate) fn until<T>(
    what: &str,
    bound: Duration,
    mut check: impl FnMut() -> Condition<T>,
) -> Result<T, Error> {
    let begun = SystemClock.now();
    let mut pause = FIRST_PAUSE;
    loop {
        let reason = match check() {
            Condition::Ready(found) => return Ok(found),
            Condition::Failed(error) => return Err(error),
            Condition::NotYet(reason) => reason,
        };
        if SystemClock.now().since(begun) > bound {
            return Err(Error::new(format!(
                "{what}: not within {bound:?}: {reason}"
            )));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poll_ends_when_the_condition_holds_or_fails() {
        let mut checks = 0;
        let third = until("third check", Duration::from_secs(30), || {
            checks += 1;
            if checks == 3 {
                Condition::Ready(checks)
            } else {
                Condition::NotYet(format!("check {checks}"))
            }
        });
        assert_eq!(third.unwrap(), 3);

        let failed = until::<()>("never", Duration::from_secs(30), || {
            Condition::Failed(Error::new("over"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "over");
    }

    #[test]
    fn poll_ends_at_the_time_limit_with_the_last_reason() {
        let late = until::<()>("the server is ready", Duration::from_millis(20), || {
            Condition::NotYet("connection refused".to_owned())
        });
        assert_eq!(
            late.unwrap_err().to_string(),
            "the server is ready: not within 20ms: connection refused"
        );
    }
}
