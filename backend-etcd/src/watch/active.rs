//! The watches that the server was asked to create.

use std::collections::HashMap;

use tokio::time::Instant;

use super::Watch;
use crate::attempts::Attempts;

/// The active watches of one client.
#[derive(Default)]
pub(super) struct ActiveWatches {
    watches: HashMap<u64, Watch>,
    /// How many of them watch a predecessor.
    predecessor_count: usize,
    /// Since when at least one of them has.
    since: Option<Instant>,
}

impl ActiveWatches {
    /// Adds a watch that was wanted since then, and returns it for the request to the server. A
    /// watch that has already ended is not added: the attempt changes before its watch is stopped,
    /// and the command to stop may overtake the command to start.
    pub(super) fn start(
        &mut self,
        attempts: &Attempts,
        id: u64,
        watch: Watch,
        since: Instant,
    ) -> Option<&Watch> {
        if !attempts.needs_watch(watch.attempt, id) {
            return None;
        }
        if watch.target.is_predecessor() {
            self.predecessor_count += 1;
            self.since.get_or_insert(since);
        }
        Some(self.watches.entry(id).insert_entry(watch).into_mut())
    }

    /// Removes a watch. Returns whether it existed.
    pub(super) fn stop(&mut self, id: u64) -> bool {
        let Some(watch) = self.watches.remove(&id) else {
            return false;
        };
        self.predecessor_count -= usize::from(watch.target.is_predecessor());
        if self.predecessor_count == 0 {
            self.since = None;
        }
        true
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

    /// Since when a predecessor has been watched without a break; `None` if none is.
    pub(super) fn predecessor_watched_since(&self) -> Option<Instant> {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tenure_core::{id::AttemptId, name::LockName};

    use super::{super::WatchTarget, *};
    use crate::attempts::tests::predecessor;

    fn watch(attempt: AttemptId, target: WatchTarget) -> Watch {
        Watch {
            target,
            attempt,
            key: Arc::from("k"),
            from: 1,
            starts_late: true,
        }
    }

    fn waiter(attempts: &Attempts, id: u64) -> AttemptId {
        let attempt = AttemptId::random().unwrap();
        attempts.register(attempt, &LockName::new("a").unwrap());
        attempts
            .set_predecessor(attempt, predecessor("k", id))
            .unwrap();
        attempt
    }

    #[tokio::test]
    async fn watch_stopped_before_its_start_is_not_started() {
        let (attempts, mut active) = (Attempts::default(), ActiveWatches::default());
        let attempt = waiter(&attempts, 7);
        attempts.mark_holding(attempt).unwrap();
        assert!(!active.stop(7));
        for immediate in [true, false] {
            let watch = watch(attempt, WatchTarget::Predecessor { immediate });
            assert!(active.start(&attempts, 7, watch, Instant::now()).is_none());
        }
        assert!(active.get(7).is_none() && active.predecessor_watched_since().is_none());
    }

    #[tokio::test]
    async fn predecessors_are_watched_until_the_last_watch_stops() {
        let (attempts, mut active) = (Attempts::default(), ActiveWatches::default());
        let since = Instant::now();
        for (id, immediate) in [(7, false), (8, true)] {
            let watch = watch(
                waiter(&attempts, id),
                WatchTarget::Predecessor { immediate },
            );
            assert!(active.start(&attempts, id, watch, since).is_some());
        }
        assert_eq!(active.predecessor_watched_since(), Some(since));
        assert!(active.stop(7));
        assert_eq!(
            active.predecessor_watched_since(),
            Some(since),
            "the other watch continues"
        );
        assert!(active.stop(8) && !active.stop(8));
        assert_eq!(active.predecessor_watched_since(), None);
    }

    #[tokio::test]
    async fn w2_events_before_the_known_revision_are_ignored() {
        let (attempts, mut active) = (Attempts::default(), ActiveWatches::default());
        let mut late = watch(
            waiter(&attempts, 7),
            WatchTarget::Predecessor { immediate: true },
        );
        late.from = 6;
        let _ = active.start(&attempts, 7, late, Instant::now());
        assert!(active.get_for_event(7, 5).is_none());
        assert!(active.get_for_event(7, 6).is_some() && active.get_for_event(8, 6).is_none());
    }
}
