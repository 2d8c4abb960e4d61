//! The watches that the server was asked to create.

use std::collections::HashMap;

use tokio::time::Instant;

use super::{Watch, WatchTarget};
use crate::attempts::Attempts;

/// The active watches of one client.
#[derive(Default)]
pub(super) struct ActiveWatches {
    watches: HashMap<u64, Watch>,
    /// How many of them belong to waiters.
    waiter_count: usize,
    /// Since when at least one of them has.
    waiters_since: Option<Instant>,
}

impl ActiveWatches {
    /// Adds a watch, and returns it for the request to the server. A watch that has already ended is
    /// not added: the attempt changes before its watch is stopped, and the command to stop may
    /// overtake the command to start.
    pub(super) fn start(&mut self, attempts: &Attempts, id: u64, watch: Watch) -> Option<&Watch> {
        if !attempts.needs_watch(watch.attempt, id) {
            return None;
        }
        if watch.target != WatchTarget::Own {
            self.waiter_count += 1;
            self.waiters_since.get_or_insert_with(Instant::now);
        }
        Some(self.watches.entry(id).insert_entry(watch).into_mut())
    }

    /// Keeps the watch of a waiter that has become the holder.
    pub(super) fn keep_for_holder(&mut self, id: u64) {
        if let Some(watch) = self.watches.get_mut(&id) {
            let was = std::mem::replace(&mut watch.target, WatchTarget::Own);
            self.remove_waiter(&was);
        }
    }

    /// Removes a watch. Returns whether it existed.
    pub(super) fn stop(&mut self, id: u64) -> bool {
        let Some(watch) = self.watches.remove(&id) else {
            return false;
        };
        self.remove_waiter(&watch.target);
        true
    }

    fn remove_waiter(&mut self, target: &WatchTarget) {
        self.waiter_count -= usize::from(*target != WatchTarget::Own);
        if self.waiter_count == 0 {
            self.waiters_since = None;
        }
    }

    /// All active watches.
    pub(super) fn all(&mut self) -> impl Iterator<Item = (u64, &mut Watch)> {
        self.watches.iter_mut().map(|(id, watch)| (*id, watch))
    }

    pub(super) fn get(&self, id: u64) -> Option<&Watch> {
        self.watches.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Watch> {
        self.watches.get_mut(&id)
    }

    /// Returns the watch with this id if an event at this revision concerns it. A member that lags
    /// behind starts a watch before the known revision and reports old events: a key that was
    /// released and taken again in that time is not gone.
    pub(super) fn get_for_event(&self, id: u64, revision: i64) -> Option<&Watch> {
        let watch = self.watches.get(&id);
        watch.filter(|watch| revision >= watch.from)
    }

    /// Since when waiters have been watching without a break; `None` if none is.
    pub(super) fn waiters_since(&self) -> Option<Instant> {
        self.waiters_since
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tenure_core::{id::AttemptId, mode::Mode, name::LockName};

    use super::*;
    use crate::attempts::tests::predecessor;

    fn watch(attempt: AttemptId) -> Watch {
        let target = WatchTarget::Next {
            predecessor: Arc::from("k"),
        };
        Watch {
            target,
            attempt,
            own: Arc::from("me"),
            from: 1,
        }
    }

    fn waiter(attempts: &Attempts, id: u64) -> AttemptId {
        let attempt = AttemptId::random().unwrap();
        attempts.register(attempt, &LockName::new("a").unwrap(), Mode::Exclusive);
        attempts
            .set_predecessor(attempt, predecessor("k"), id)
            .unwrap();
        attempt
    }

    #[tokio::test]
    async fn watch_stopped_before_its_start_is_not_started() {
        let (attempts, mut active) = (Attempts::default(), ActiveWatches::default());
        let attempt = waiter(&attempts, 7);
        attempts.mark_holding(attempt, None).unwrap();
        assert!(!active.stop(7));
        assert!(active.start(&attempts, 7, watch(attempt)).is_none());
        assert!(active.get(7).is_none() && active.waiters_since().is_none());
    }

    #[tokio::test]
    async fn waiters_watch_until_the_last_one_leaves_or_holds() {
        let (attempts, mut active) = (Attempts::default(), ActiveWatches::default());
        for id in [7, 8, 9] {
            let watch = watch(waiter(&attempts, id));
            assert!(active.start(&attempts, id, watch).is_some());
        }
        let since = active.waiters_since();
        assert!(active.stop(7) && since.is_some());
        active.keep_for_holder(8);
        active.keep_for_holder(8);
        assert_eq!(active.waiters_since(), since, "the last waiter continues");
        assert!(active.stop(9) && !active.stop(9));
        assert_eq!(active.waiters_since(), None);
        assert!(active.stop(8));
    }

    #[tokio::test]
    async fn w2_events_before_the_known_revision_are_ignored() {
        let (attempts, mut active) = (Attempts::default(), ActiveWatches::default());
        let mut late = watch(waiter(&attempts, 7));
        late.from = 6;
        let _ = active.start(&attempts, 7, late);
        assert!(active.get_for_event(7, 5).is_none());
        assert!(active.get_for_event(7, 6).is_some() && active.get_for_event(8, 6).is_none());
    }
}
