//! Which locks nobody else seems to want. No I/O.
//!
//! Who enters the queue of a lock that is free has no use for what the transaction reads of that queue,
//! and the reads cost the server 3 % of an acquire and release. A lock that was free so often in a row is
//! entered by a shorter transaction. Where that finds somebody, it has cost one round trip; so it is tried
//! again only after as many free ones.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use tenure_core::name::LockName;

/// So often in a row has a lock to be free.
const UNCONTENDED_THRESHOLD: u64 = 16;

/// So many locks are remembered; one that falls into the place of another takes it.
const MAX_TRACKED_LOCKS: usize = 1024;

/// What was last seen of the locks of one client.
pub(crate) struct UncontendedLocks {
    /// Of which lock, by its hash, and in the lowest bits how often it was free.
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for UncontendedLocks {
    fn default() -> Self {
        Self {
            slots: (0..MAX_TRACKED_LOCKS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl UncontendedLocks {
    /// Whether it is to be expected that this lock is free.
    pub(crate) fn contains(&self, name: &LockName) -> bool {
        let (slot, lock_hash) = self.slot(name);
        slot.load(Ordering::Relaxed) == lock_hash | UNCONTENDED_THRESHOLD
    }

    /// An attempt has found it free.
    pub(crate) fn record_free(&self, name: &LockName) {
        let (slot, lock_hash) = self.slot(name);
        let seen = slot.load(Ordering::Relaxed);
        // Two at once may count as one: it is a guess anyhow.
        let next = match seen {
            seen if seen == lock_hash | UNCONTENDED_THRESHOLD => return,
            seen if seen & !COUNT_MASK == lock_hash => seen + 1,
            _ => lock_hash | 1,
        };
        slot.store(next, Ordering::Relaxed);
    }

    /// An attempt has found somebody else.
    pub(crate) fn record_contended(&self, name: &LockName) {
        let (slot, lock_hash) = self.slot(name);
        slot.store(lock_hash, Ordering::Relaxed);
    }

    fn slot(&self, name: &LockName) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(name.as_str());
        let index = usize::try_from(hash % MAX_TRACKED_LOCKS as u64).unwrap_or(0);
        (&self.slots[index], hash & !COUNT_MASK)
    }
}

/// Those that hold the count.
const COUNT_MASK: u64 = 0xff;

impl fmt::Debug for UncontendedLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UncontendedLocks").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_quiet_after_enough_free_ones_in_a_row() {
        let (uncontended, name) = (UncontendedLocks::default(), LockName::new("a").unwrap());
        for _ in 0..2 {
            for _ in 0..UNCONTENDED_THRESHOLD {
                assert!(!uncontended.contains(&name));
                uncontended.record_free(&name);
            }
            uncontended.record_free(&name);
            assert!(uncontended.contains(&name));
            uncontended.record_contended(&name);
        }
        assert!(!uncontended.contains(&name));
    }

    #[test]
    fn what_is_known_of_one_lock_is_not_believed_of_another() {
        let uncontended = UncontendedLocks::default();
        let names: Vec<_> = (0..4 * MAX_TRACKED_LOCKS)
            .map(|number| LockName::new(format!("lock-{number}")).unwrap())
            .collect();
        for name in &names {
            // Others have its place by now.
            assert!(!uncontended.contains(name));
            for _ in 0..UNCONTENDED_THRESHOLD {
                uncontended.record_free(name);
            }
            assert!(uncontended.contains(name));
        }
    }
}
