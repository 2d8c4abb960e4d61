//! Which watches there are, and when each is asked for.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::{Watch, What};
use crate::book::Book;

/// A lock that is given back sooner is not watched: what happens to it meanwhile is told all the same,
/// so much later.
const SETTLED: Duration = Duration::from_millis(20);

/// The watches of one client.
#[derive(Default)]
pub(super) struct Table {
    watches: HashMap<u64, Watch>,
    /// How many of them wait for somebody.
    aheads: usize,
    /// Since when any of them has.
    since: Option<Instant>,
    /// Those that are not asked for yet.
    later: VecDeque<(Instant, u64)>,
}

impl Table {
    /// Adds a watch, and returns it if it is to be asked for at once. One that has ended already is not
    /// added: what ends a watch changes the book first, and its command may overtake that of the
    /// beginning.
    pub(super) fn begin(&mut self, book: &Book, number: u64, watch: Watch) -> Option<&Watch> {
        if !book.awaits(watch.attempt, number) {
            return None;
        }
        if watch.what.is_ahead() {
            self.aheads += 1;
            self.since.get_or_insert_with(Instant::now);
        }
        let soon = watch.what == What::Ahead { soon: true };
        if !soon {
            self.later.push_back((Instant::now() + SETTLED, number));
        }
        self.watches.insert(number, watch);
        self.watches.get(&number).filter(|_| soon)
    }

    /// Takes a watch out, and returns whether the server knows of it.
    pub(super) fn end(&mut self, number: u64) -> bool {
        let Some(watch) = self.watches.remove(&number) else {
            return false;
        };
        self.aheads -= usize::from(watch.what.is_ahead());
        if self.aheads == 0 {
            self.since = None;
        }
        let before = self.later.len();
        self.later.retain(|(_, later)| *later != number);
        self.later.len() == before
    }

    /// When the first of those is due that were put off.
    pub(super) fn alarm(&self) -> Option<Instant> {
        self.later.front().map(|(at, _)| *at)
    }

    /// Those that were put off and are due.
    pub(super) fn due(&mut self, now: Instant) -> impl Iterator<Item = (u64, &Watch)> {
        let count = self.later.partition_point(|(at, _)| *at <= now);
        let due = self.later.drain(..count);
        due.filter_map(|(_, number)| Some((number, self.watches.get(&number)?)))
    }

    /// All of them, also those that were put off: a new stream knows of none.
    pub(super) fn all_at_once(&mut self) -> impl Iterator<Item = (u64, &mut Watch)> {
        self.later.clear();
        self.watches
            .iter_mut()
            .map(|(number, watch)| (*number, watch))
    }

    pub(super) fn get(&self, number: u64) -> Option<&Watch> {
        self.watches.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Watch> {
        self.watches.get_mut(&number)
    }

    /// The watch of that number, if what has happened at that revision concerns it. A member that lags
    /// behind begins a watch before what is known already, and tells of it: a key that was given back
    /// and taken again there has not gone.
    pub(super) fn concerned(&self, number: u64, revision: i64) -> Option<&Watch> {
        let watch = self.watches.get(&number);
        watch.filter(|watch| revision >= watch.from)
    }

    /// Since when somebody is waited for all the time; `None` if nobody is.
    pub(super) fn waited_for_since(&self) -> Option<Instant> {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tenure_core::{id::AttemptId, name::LockName};

    use super::*;
    use crate::book::tests::behind;

    fn watch(attempt: AttemptId, what: What) -> Watch {
        Watch {
            what,
            attempt,
            key: Arc::from("k"),
            from: 1,
            gap: true,
        }
    }

    fn waiter(book: &Book, number: u64) -> AttemptId {
        let attempt = AttemptId::random().unwrap();
        book.begin(attempt, &LockName::new("a").unwrap());
        book.follow(attempt, behind("k", number)).unwrap();
        attempt
    }

    #[tokio::test]
    async fn a_watch_whose_end_has_overtaken_its_beginning_is_not_begun() {
        let (book, mut table) = (Book::default(), Table::default());
        let attempt = waiter(&book, 7);
        book.hold(attempt).unwrap();
        assert!(!table.end(7));
        for soon in [true, false] {
            let watch = watch(attempt, What::Ahead { soon });
            assert!(table.begin(&book, 7, watch).is_none());
        }
        assert!(table.get(7).is_none() && table.waited_for_since().is_none());
        assert!(table.alarm().is_none());
    }

    #[tokio::test]
    async fn one_that_was_put_off_is_asked_for_once_and_only_then_known() {
        let (book, mut table) = (Book::default(), Table::default());
        let late = watch(waiter(&book, 7), What::Ahead { soon: false });
        assert!(table.begin(&book, 7, late).is_none());
        let soon = watch(waiter(&book, 8), What::Ahead { soon: true });
        assert!(table.begin(&book, 8, soon).is_some());
        let never = watch(waiter(&book, 9), What::Ahead { soon: false });
        assert!(table.begin(&book, 9, never).is_none());
        assert!(!table.end(9), "the server was never asked for it");
        assert_eq!(table.due(Instant::now()).count(), 0);
        let later = Instant::now() + SETTLED;
        assert_eq!(
            table
                .due(later)
                .map(|(number, _)| number)
                .collect::<Vec<_>>(),
            [7]
        );
        assert!(table.alarm().is_none());
        let since = table.waited_for_since();
        assert!(table.end(7) && since.is_some());
        assert_eq!(table.waited_for_since(), since, "the other one goes on");
        assert!(table.end(8) && !table.end(8));
        assert_eq!(table.waited_for_since(), None);
    }

    #[tokio::test]
    async fn w2_what_is_known_already_ends_no_watch() {
        let (book, mut table) = (Book::default(), Table::default());
        let mut late = watch(waiter(&book, 7), What::Ahead { soon: true });
        late.from = 6;
        let _ = table.begin(&book, 7, late);
        assert!(table.concerned(7, 5).is_none());
        assert!(table.concerned(7, 6).is_some() && table.concerned(8, 6).is_none());
    }
}
