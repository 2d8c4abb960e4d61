//! Waiting for a condition: asked again and again, within a bound, never by one fixed sleep.

use std::{thread, time::Duration};

use tenure_core::clock::{Clock, SystemClock};

use crate::Error;

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// The state of a condition.
pub(crate) enum Condition<T> {
    /// It holds.
    Ready(T),
    /// Not yet, and why.
    NotYet(String),
    /// It never will.
    Failed(Error),
}

impl<T> Condition<T> {
    /// A failure to ask is no more than "not yet".
    pub(crate) fn from_answer(answer: Result<T, Error>) -> Self {
        match answer {
            Ok(found) => Self::Ready(found),
            Err(error) => Self::NotYet(error.to_string()),
        }
    }
}

/// Looks until the condition holds, for as long as `bound`; `what` names it in the error.
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
                "{what}: not within {bound:?}, at last: {reason}"
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
    fn a_condition_that_comes_true_is_seen_and_one_that_fails_ends_the_wait() {
        let mut looks = 0;
        let third = until("third look", Duration::from_secs(30), || {
            looks += 1;
            if looks == 3 {
                Condition::Ready(looks)
            } else {
                Condition::NotYet(format!("look {looks}"))
            }
        });
        assert_eq!(third.unwrap(), 3);

        let failed = until::<()>("never", Duration::from_secs(30), || {
            Condition::Failed(Error::new("over"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "over");
    }

    #[test]
    fn the_bound_ends_the_wait_with_the_last_reason() {
        let late = until::<()>("the server is ready", Duration::from_millis(20), || {
            Condition::NotYet("connection refused".to_owned())
        });
        assert_eq!(
            late.unwrap_err().to_string(),
            "the server is ready: not within 20ms, at last: connection refused"
        );
    }
}
