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
        self.aheads += usize::from(watch.what.is_ahead());
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
        let put_off = self.later.iter().any(|(_, later)| *later == number);
        if put_off {
            self.later.retain(|(_, later)| *later != number);
        }
        !put_off
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

    pub(super) fn wait_for_somebody(&self) -> bool {
        self.aheads > 0
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
        assert!(table.get(7).is_none() && !table.wait_for_somebody());
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
        assert!(table.wait_for_somebody());
        assert!(table.end(7) && table.end(8) && !table.end(8));
        assert!(!table.wait_for_somebody());
    }
}
