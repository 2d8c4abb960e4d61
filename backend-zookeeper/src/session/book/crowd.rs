//! The attempts of a session that wait for one lock. Pure.
//!
//! A server numbers the children of a node one after the other. So whoever has the number behind that of
//! another one stands right behind it, and needs no list of the queue to know that. A node that somebody
//! has made by hand, with a number of his own choice, keeps its place only against those who list.

use tenure_core::id::AttemptId;

/// Those who wait for one lock, while anybody does.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// How many they are.
    pub(super) waiting: usize,
    /// The last one in the queue, by its number, while it waits.
    last: Option<(i32, AttemptId)>,
    /// One of ours that was first. It need not be any more.
    pub(super) first: Option<AttemptId>,
}

impl Crowd {
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

    /// The one that whoever has this number stands right behind, if it is one of these. A server that has
    /// counted to the end may give the same number twice.
    pub(super) fn before(&self, number: i32) -> Option<AttemptId> {
        let (last, attempt) = self.last?;
        (number < i32::MAX && last.checked_add(1) == Some(number)).then_some(attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w1_only_the_next_number_stands_right_behind() {
        let mut crowd = Crowd::default();
        let [one, two, three] = [1, 2, 3].map(AttemptId::from_u128);
        assert_eq!(crowd.before(1), None);
        crowd.join(Some(7), two);
        crowd.join(Some(6), one);
        assert_eq!(crowd.before(8), Some(two), "the later one is the last");
        assert_eq!(crowd.before(9), None, "somebody is between");
        assert_eq!(crowd.before(7), None);
        crowd.join(Some(12), three);
        crowd.leave(two);
        assert_eq!(crowd.before(13), Some(three));
        crowd.leave(three);
        assert_eq!((crowd.before(13), crowd.waiting), (None, 1));
        crowd.join(None, two);
        assert_eq!((crowd.before(0), crowd.waiting), (None, 2));
    }

    #[test]
    fn w1_at_the_end_of_the_count_no_number_follows_another() {
        for last in [i32::MAX - 1, i32::MAX] {
            let mut crowd = Crowd::default();
            crowd.join(Some(last), AttemptId::from_u128(1));
            assert_eq!(crowd.before(last.wrapping_add(1)), None);
        }
    }
}
