//! The attempts of a session that wait for one lock. Pure.
//!
//! A server numbers the children of a node one after the other. So whoever has the number behind that of
//! another one stands right behind it, and needs no list of the queue to know that.

use std::sync::Arc;

use tenure_core::id::AttemptId;

/// Those who wait for one lock, while anybody does.
#[derive(Debug)]
pub(super) struct Crowd {
    /// How many they are.
    pub(super) waiting: usize,
    /// The last one in the queue, by its number, while it waits.
    last: Option<(i32, AttemptId)>,
    pub(super) holder: Foremost,
}

/// What is known of the one that is first.
#[derive(Clone, Debug)]
pub(super) enum Foremost {
    /// It is the one that was seen when the last list was read.
    AsListed,
    /// The node of an attempt of this session.
    Ours(Arc<str>),
    /// One of ours was, and has gone.
    Unknown,
}

impl Crowd {
    pub(super) const fn new() -> Self {
        Self {
            waiting: 0,
            last: None,
            holder: Foremost::AsListed,
        }
    }

    /// An attempt of that number waits.
    pub(super) fn join(&mut self, number: Option<i32>, attempt: AttemptId) {
        self.waiting += 1;
        let Some(number) = number else { return };
        // The servers count in a circle.
        let is_later = |last: i32| number.wrapping_sub(last) > 0;
        if self.last.is_none_or(|(last, _)| is_later(last)) {
            self.last = Some((number, attempt));
        }
    }

    /// An attempt waits no more.
    pub(super) fn leave(&mut self, attempt: AttemptId) {
        self.waiting = self.waiting.saturating_sub(1);
        self.last = self.last.filter(|(_, last)| *last != attempt);
    }

    /// The one that whoever has this number stands right behind, if it is one of these.
    pub(super) fn before(&self, number: i32) -> Option<AttemptId> {
        let (last, attempt) = self.last?;
        (number.wrapping_sub(last) == 1).then_some(attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w1_only_the_next_number_stands_right_behind() {
        let mut crowd = Crowd::new();
        let [one, two, three] = [1, 2, 3].map(AttemptId::from_u128);
        assert_eq!(crowd.before(1), None);
        crowd.join(Some(i32::MAX - 1), one);
        crowd.join(Some(i32::MAX), two);
        assert_eq!(crowd.before(i32::MIN), Some(two), "they count in a circle");
        assert_eq!(crowd.before(i32::MIN + 1), None, "somebody is between");
        assert_eq!(crowd.before(i32::MAX), None);
        crowd.join(Some(i32::MIN + 5), three);
        crowd.leave(two);
        assert_eq!(crowd.before(i32::MIN + 6), Some(three));
        crowd.leave(three);
        assert_eq!((crowd.before(i32::MIN + 6), crowd.waiting), (None, 1));
        crowd.join(None, two);
        assert_eq!((crowd.before(0), crowd.waiting), (None, 2));
    }
}
