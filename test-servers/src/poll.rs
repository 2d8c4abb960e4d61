//! Waiting for a condition: asked again and again, within a bound, never by one fixed sleep.

use std::{thread, time::Duration};

use tenure_core::clock::{Clock, SystemClock};

use crate::Error;

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// What one look at a condition found.
pub(crate) enum Look<T> {
    /// It holds.
    Ready(T),
    /// Not yet, and why.
    NotYet(String),
    /// It never will.
    Failed(Error),
}

impl<T> Look<T> {
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
    mut look: impl FnMut() -> Look<T>,
) -> Result<T, Error> {
    let begun = SystemClock.now();
    let mut pause = FIRST_PAUSE;
    loop {
        let reason = match look() {
            Look::Ready(found) => return Ok(found),
            Look::Failed(error) => return Err(error),
            Look::NotYet(reason) => reason,
        };
        if SystemClock.now().since(begun) > bound {
            return Err(Error::new(format!(
                "{what}: not within {bound:?}, at last: {reason}"
            )));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
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
                Look::Ready(looks)
            } else {
                Look::NotYet(format!("look {looks}"))
            }
        });
        assert_eq!(third.unwrap(), 3);

        let failed = until::<()>("never", Duration::from_secs(30), || {
            Look::Failed(Error::new("over"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "over");
    }

    #[test]
    fn the_bound_ends_the_wait_with_the_last_reason() {
        let late = until::<()>("the server is ready", Duration::from_millis(20), || {
            Look::NotYet("connection refused".to_owned())
        });
        assert_eq!(
            late.unwrap_err().to_string(),
            "the server is ready: not within 20ms, at last: connection refused"
        );
    }
}
