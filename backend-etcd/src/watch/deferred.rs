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
pub(super) const SETTLED: Duration = Duration::from_millis(20);

/// So many that are wanted no more are left in the list.
const MOST_STALE: usize = 1024;

/// Those that are put off. Whoever takes or gives back a lock changes them, and the task takes out what
/// is due.
#[derive(Default)]
pub(super) struct Later {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    watches: HashMap<u64, Watch>,
    /// When each is due. Those that are wanted no more are left in here until the task comes by: as long
    /// as anything is in here, it comes by itself.
    order: VecDeque<(Instant, u64)>,
}

impl Later {
    /// Puts one off, and returns whether the task has to be told that there is something to come for.
    pub(super) fn put_off(&self, now: Instant, number: u64, watch: Watch) -> bool {
        let mut state = self.lock();
        let alone = state.order.is_empty();
        state.watches.insert(number, watch);
        state.order.push_back((now + SETTLED, number));
        if state.order.len() > 2 * state.watches.len() + MOST_STALE {
            // The task does not come, since the stream is down or its runtime has ended. The first one
            // stays, for which it was told.
            let State { watches, order } = &mut *state;
            let front = order.pop_front();
            order.retain(|(_, number)| watches.contains_key(number));
            order.extend(front);
            order.rotate_right(1);
        }
        alone
    }

    /// One is wanted no more. Returns whether it was still put off.
    pub(super) fn take_back(&self, number: u64) -> bool {
        self.lock().watches.remove(&number).is_some()
    }

    /// When the task has to come.
    pub(super) fn alarm(&self) -> Option<Instant> {
        self.lock().order.front().map(|(at, _)| *at)
    }

    /// Takes out those that are due.
    pub(super) fn due(&self, now: Instant) -> Vec<(u64, Watch)> {
        let mut state = self.lock();
        let State { watches, order } = &mut *state;
        let mut due = Vec::new();
        while let Some((at, number)) = order.front() {
            if *at > now && watches.contains_key(number) {
                break;
            }
            due.extend(watches.remove(number).map(|watch| (*number, watch)));
            order.pop_front();
        }
        due
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later")
            .field("watches", &self.lock().watches.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tenure_core::id::AttemptId;

    use super::{super::What, *};

    fn watch() -> Watch {
        Watch {
            what: What::Own,
            attempt: AttemptId::random().unwrap(),
            key: Arc::from("k"),
            from: 1,
            gap: false,
        }
    }

    fn numbers(due: Vec<(u64, Watch)>) -> Vec<u64> {
        due.into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn the_task_is_told_once_and_comes_by_itself_until_nothing_is_left() {
        let (later, now) = (Later::default(), Instant::now());
        let at = |millis| now + Duration::from_millis(millis);
        assert!(later.put_off(at(0), 1, watch()));
        assert!(!later.put_off(at(5), 2, watch()), "it is to come anyhow");
        assert!(later.take_back(1) && !later.take_back(1));
        assert!(!later.put_off(at(6), 3, watch()), "and is still to come");
        assert_eq!(later.alarm(), Some(at(20)), "no timer is set anew");
        assert_eq!(numbers(later.due(at(20))).len(), 0, "none is due");
        assert_eq!(later.alarm(), Some(at(25)));
        assert_eq!(numbers(later.due(at(25))), [2]);
        assert!(!later.take_back(2), "the server is asked for it now");
        assert!(later.take_back(3));
        assert_eq!(numbers(later.due(at(25))).len(), 0);
        assert_eq!(later.alarm(), None, "none is left");
        assert!(later.put_off(at(30), 4, watch()), "so it is told again");
    }

    #[test]
    fn what_the_task_does_not_come_for_does_not_pile_up() {
        let (later, now) = (Later::default(), Instant::now());
        for number in 0..100_000 {
            let _ = later.put_off(now, number, watch());
            assert!(later.take_back(number));
        }
        let state = later.lock();
        assert!(state.watches.is_empty());
        assert!(state.order.len() < 2000, "{} stale ones", state.order.len());
    }
}
