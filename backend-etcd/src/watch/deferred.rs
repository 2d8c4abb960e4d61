//! Watches that are put off a little: most locks are given back sooner, and then nobody has to be asked
//! or told anything, not even the task.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::Watch;

/// A lock that is given back sooner is not watched: what happens to it meanwhile is told all the same,
/// so much later.
pub(super) const DEFERRAL: Duration = Duration::from_millis(20);

/// So many that are wanted no more are left in the list.
const MAX_STALE_ENTRIES: usize = 1024;

/// Those that are put off. Whoever takes or gives back a lock changes them, and the task takes out what
/// is due.
#[derive(Default)]
pub(super) struct DeferredWatches {
    state: Mutex<DeferredState>,
}

#[derive(Default)]
struct DeferredState {
    watches: HashMap<u64, Watch>,
    /// When each is due. Those that are wanted no more are left in here until the task comes by: as long
    /// as anything is in here, it comes by itself.
    order: VecDeque<(Instant, u64)>,
}

impl DeferredWatches {
    /// Puts one off, and returns whether the task has to be told that there is something to come for.
    pub(super) fn defer(&self, now: Instant, id: u64, watch: Watch) -> bool {
        let mut state = self.lock();
        let was_empty = state.order.is_empty();
        state.watches.insert(id, watch);
        state.order.push_back((now + DEFERRAL, id));
        if state.order.len() > 2 * state.watches.len() + MAX_STALE_ENTRIES {
            // The task does not come, since the stream is down or its runtime has ended. The first one
            // stays, for which it was told.
            let DeferredState { watches, order } = &mut *state;
            let front = order.pop_front();
            order.retain(|(_, id)| watches.contains_key(id));
            order.extend(front);
            order.rotate_right(1);
        }
        was_empty
    }

    /// One is wanted no more. Returns whether it was still put off.
    pub(super) fn cancel(&self, id: u64) -> bool {
        self.lock().watches.remove(&id).is_some()
    }

    /// When the task has to come.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.lock().order.front().map(|(at, _)| *at)
    }

    /// Takes out those that are due.
    pub(super) fn take_due(&self, now: Instant) -> Vec<(u64, Watch)> {
        let mut state = self.lock();
        let DeferredState { watches, order } = &mut *state;
        let mut due = Vec::new();
        while let Some((at, id)) = order.front() {
            if *at > now && watches.contains_key(id) {
                break;
            }
            due.extend(watches.remove(id).map(|watch| (*id, watch)));
            order.pop_front();
        }
        due
    }

    fn lock(&self) -> MutexGuard<'_, DeferredState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for DeferredWatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeferredWatches")
            .field("watches", &self.lock().watches.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tenure_core::id::AttemptId;

    use super::{super::WatchTarget, *};

    fn watch() -> Watch {
        Watch {
            target: WatchTarget::Own,
            attempt: AttemptId::random().unwrap(),
            key: Arc::from("k"),
            from: 1,
            starts_late: false,
        }
    }

    fn ids(due: Vec<(u64, Watch)>) -> Vec<u64> {
        due.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn the_task_is_told_once_and_comes_by_itself_until_nothing_is_left() {
        let (deferred, now) = (DeferredWatches::default(), Instant::now());
        let at = |millis| now + Duration::from_millis(millis);
        assert!(deferred.defer(at(0), 1, watch()));
        assert!(!deferred.defer(at(5), 2, watch()), "it is to come anyhow");
        assert!(deferred.cancel(1) && !deferred.cancel(1));
        assert!(!deferred.defer(at(6), 3, watch()), "and is still to come");
        assert_eq!(deferred.next_due(), Some(at(20)), "no timer is set anew");
        assert_eq!(ids(deferred.take_due(at(20))).len(), 0, "none is due");
        assert_eq!(deferred.next_due(), Some(at(25)));
        assert_eq!(ids(deferred.take_due(at(25))), [2]);
        assert!(!deferred.cancel(2), "the server is asked for it now");
        assert!(deferred.cancel(3));
        assert_eq!(ids(deferred.take_due(at(25))).len(), 0);
        assert_eq!(deferred.next_due(), None, "none is left");
        assert!(deferred.defer(at(30), 4, watch()), "so it is told again");
    }

    #[test]
    fn what_the_task_does_not_come_for_does_not_pile_up() {
        let (deferred, now) = (DeferredWatches::default(), Instant::now());
        for id in 0..100_000 {
            let _ = deferred.defer(now, id, watch());
            assert!(deferred.cancel(id));
        }
        let state = deferred.lock();
        assert!(state.watches.is_empty());
        assert!(state.order.len() < 2000, "{} stale ones", state.order.len());
    }
}
