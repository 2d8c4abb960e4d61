//! Deferred watches. Most locks are released before their watch is due; then neither the server nor
//! the watch task has any work.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::Watch;

/// A lock that is released sooner is never watched. Events in this time are still reported, but
/// later by as much.
pub(super) const DEFERRAL: Duration = Duration::from_millis(20);

/// How many cancelled entries may stay in the list.
const MAX_STALE_ENTRIES: usize = 1024;

/// The deferred watches. Acquires and releases add and cancel them; the watch task takes out those
/// that are due.
#[derive(Default)]
pub(super) struct DeferredWatches {
    state: Mutex<DeferredState>,
}

#[derive(Default)]
struct DeferredState {
    watches: HashMap<u64, Watch>,
    /// When each watch is due. A cancelled watch stays in here until the task next runs: while the
    /// list is not empty, the task's timer runs it.
    order: VecDeque<(Instant, u64)>,
}

impl DeferredWatches {
    /// Defers a watch. Returns whether the task must be woken to set its timer.
    pub(super) fn defer(&self, now: Instant, id: u64, watch: Watch) -> bool {
        let mut state = self.lock();
        let was_empty = state.order.is_empty();
        state.watches.insert(id, watch);
        state.order.push_back((now + DEFERRAL, id));
        if state.order.len() > 2 * state.watches.len() + MAX_STALE_ENTRIES {
            // The task does not run, because the stream is down or its runtime has ended. The first
            // entry stays, because the task was woken for it.
            let DeferredState { watches, order } = &mut *state;
            let front = order.pop_front();
            order.retain(|(_, id)| watches.contains_key(id));
            order.extend(front);
            order.rotate_right(1);
        }
        was_empty
    }

    /// Cancels a watch. Returns whether it was still deferred.
    pub(super) fn cancel(&self, id: u64) -> bool {
        self.lock().watches.remove(&id).is_some()
    }

    /// When the task has to run next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.lock().order.front().map(|(at, _)| *at)
    }

    /// Takes out the watches that are due.
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
    fn task_is_woken_once_until_the_list_is_empty() {
        let (deferred, now) = (DeferredWatches::default(), Instant::now());
        let at = |millis| now + Duration::from_millis(millis);
        assert!(deferred.defer(at(0), 1, watch()));
        assert!(
            !deferred.defer(at(5), 2, watch()),
            "its timer is already set"
        );
        assert!(deferred.cancel(1) && !deferred.cancel(1));
        assert!(!deferred.defer(at(6), 3, watch()), "its timer is still set");
        assert_eq!(deferred.next_due(), Some(at(20)), "the timer is unchanged");
        assert_eq!(ids(deferred.take_due(at(20))).len(), 0, "none is due");
        assert_eq!(deferred.next_due(), Some(at(25)));
        assert_eq!(ids(deferred.take_due(at(25))), [2]);
        assert!(!deferred.cancel(2), "it is active now");
        assert!(deferred.cancel(3));
        assert_eq!(ids(deferred.take_due(at(25))).len(), 0);
        assert_eq!(deferred.next_due(), None, "none is left");
        assert!(
            deferred.defer(at(30), 4, watch()),
            "so the task is woken again"
        );
    }

    #[test]
    fn cancelled_watches_do_not_accumulate_without_the_task() {
        let (deferred, now) = (DeferredWatches::default(), Instant::now());
        for id in 0..100_000 {
            let _ = deferred.defer(now, id, watch());
            assert!(deferred.cancel(id));
        }
        let state = deferred.lock();
        assert!(state.watches.is_empty());
        assert!(
            state.order.len() < 2000,
            "{} stale entries",
            state.order.len()
        );
    }
}
