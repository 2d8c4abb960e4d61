//! Which own nodes are to be watched, and when. Pure.

use std::{collections::VecDeque, time::Duration};

use tenure_core::id::AttemptId;
use tokio::time::Instant;

/// So long an own node is not watched: a lock that is held for a moment costs no watch, and who waits
/// behind another one of ours for a moment neither. What happens to it meanwhile is told all the same, so
/// much later.
const SETTLED: Duration = Duration::from_millis(20);

/// Those whose own node is not watched yet, in the order in which they are due.
#[derive(Debug, Default)]
pub(crate) struct Unwatched {
    due: VecDeque<(Instant, AttemptId)>,
}

impl Unwatched {
    /// A node has just been made.
    pub(super) fn later(&mut self, now: Instant, attempt: AttemptId) {
        self.due.push_back((now + SETTLED, attempt));
    }

    /// Something happened to a node that has to be looked at.
    pub(super) fn soon(&mut self, now: Instant, attempt: AttemptId) {
        self.due.push_front((now, attempt));
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.front().map(|(at, _)| *at)
    }

    /// Takes out those that are due, and those in front of the first one that is not that nobody knows any
    /// more.
    pub(super) fn take(
        &mut self,
        now: Instant,
        known: impl Fn(AttemptId) -> bool,
    ) -> Vec<AttemptId> {
        let mut taken = Vec::new();
        while let Some((at, attempt)) = self.due.front() {
            let known = known(*attempt);
            if known && *at > now {
                break;
            }
            taken.extend(known.then_some(*attempt));
            self.due.pop_front();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l2_each_is_due_a_little_after_it_was_made_and_at_once_after_something_happened() {
        let (mut unwatched, now) = (Unwatched::default(), Instant::now());
        let at = |millis| now + Duration::from_millis(millis);
        let [one, two, three] = [1, 2, 3].map(AttemptId::from_u128);
        unwatched.later(at(0), one);
        unwatched.later(at(1), two);
        unwatched.later(at(2), three);
        assert_eq!(unwatched.next(), Some(at(20)));
        assert!(unwatched.take(at(19), |_| true).is_empty());
        unwatched.soon(at(19), three);
        assert_eq!(unwatched.next(), Some(at(19)));
        assert_eq!(unwatched.take(at(20), |_| true), [three, one]);
        // The second has gone meanwhile, and is not what is waited for.
        assert!(unwatched.take(at(20), |attempt| attempt != two).is_empty());
        assert_eq!(unwatched.next(), Some(at(22)));
        assert_eq!(unwatched.take(at(22), |_| true), [three]);
        assert_eq!(unwatched.next(), None);
    }
}
