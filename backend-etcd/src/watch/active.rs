//! Which watches the server is asked for.

use std::collections::HashMap;

use tokio::time::Instant;

use super::Watch;
use crate::attempts::Attempts;

/// The watches of one client.
#[derive(Default)]
pub(super) struct Table {
    watches: HashMap<u64, Watch>,
    /// How many of them wait for somebody.
    aheads: usize,
    /// Since when any of them has.
    since: Option<Instant>,
}

impl Table {
    /// Adds a watch that somebody has wanted since then, and returns it to be asked for. One that has
    /// ended already is not added: what ends a watch changes the book first, and its command may overtake
    /// that of the beginning.
    pub(super) fn begin(
        &mut self,
        attempts: &Attempts,
        number: u64,
        watch: Watch,
        since: Instant,
    ) -> Option<&Watch> {
        if !attempts.needs_watch(watch.attempt, number) {
            return None;
        }
        if watch.what.is_ahead() {
            self.aheads += 1;
            self.since.get_or_insert(since);
        }
        Some(self.watches.entry(number).insert_entry(watch).into_mut())
    }

    /// Takes a watch out, and returns whether there was one.
    pub(super) fn end(&mut self, number: u64) -> bool {
        let Some(watch) = self.watches.remove(&number) else {
            return false;
        };
        self.aheads -= usize::from(watch.what.is_ahead());
        if self.aheads == 0 {
            self.since = None;
        }
        true
    }

    /// All of them.
    pub(super) fn all(&mut self) -> impl Iterator<Item = (u64, &mut Watch)> {
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

    use super::{super::What, *};
    use crate::attempts::tests::predecessor;

    fn watch(attempt: AttemptId, what: What) -> Watch {
        Watch {
            what,
            attempt,
            key: Arc::from("k"),
            from: 1,
            gap: true,
        }
    }

    fn waiter(attempts: &Attempts, number: u64) -> AttemptId {
        let attempt = AttemptId::random().unwrap();
        attempts.register(attempt, &LockName::new("a").unwrap());
        attempts
            .set_predecessor(attempt, predecessor("k", number))
            .unwrap();
        attempt
    }

    #[tokio::test]
    async fn a_watch_whose_end_has_overtaken_its_beginning_is_not_begun() {
        let (attempts, mut table) = (Attempts::default(), Table::default());
        let attempt = waiter(&attempts, 7);
        attempts.mark_holding(attempt).unwrap();
        assert!(!table.end(7));
        for soon in [true, false] {
            let watch = watch(attempt, What::Ahead { soon });
            assert!(table.begin(&attempts, 7, watch, Instant::now()).is_none());
        }
        assert!(table.get(7).is_none() && table.waited_for_since().is_none());
    }

    #[tokio::test]
    async fn somebody_is_waited_for_until_the_last_such_watch_ends() {
        let (attempts, mut table) = (Attempts::default(), Table::default());
        let since = Instant::now();
        for (number, soon) in [(7, false), (8, true)] {
            let watch = watch(waiter(&attempts, number), What::Ahead { soon });
            assert!(table.begin(&attempts, number, watch, since).is_some());
        }
        assert_eq!(table.waited_for_since(), Some(since));
        assert!(table.end(7));
        assert_eq!(
            table.waited_for_since(),
            Some(since),
            "the other one goes on"
        );
        assert!(table.end(8) && !table.end(8));
        assert_eq!(table.waited_for_since(), None);
    }

    #[tokio::test]
    async fn w2_what_is_known_already_ends_no_watch() {
        let (attempts, mut table) = (Attempts::default(), Table::default());
        let mut late = watch(waiter(&attempts, 7), What::Ahead { soon: true });
        late.from = 6;
        let _ = table.begin(&attempts, 7, late, Instant::now());
        assert!(table.concerned(7, 5).is_none());
        assert!(table.concerned(7, 6).is_some() && table.concerned(8, 6).is_none());
    }
}
