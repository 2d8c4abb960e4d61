//! Which locks are likely to be free. No I/O.
//!
//! Entering an uncontended lock needs none of the reads in the enqueue transaction, and these reads
//! cost the server 3 % of an acquire and release. After [`UNCONTENDED_THRESHOLD`] free acquisitions
//! in a row, a shorter transaction enters the lock. If that transaction finds a contender, it has
//! cost one round trip; so it is tried again only after as many free acquisitions.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use tenure_core::name::LockName;

/// How often in a row a lock must be free to count as uncontended.
const UNCONTENDED_THRESHOLD: u64 = 16;

/// How many locks are tracked; a lock that hashes to the slot of another one replaces it.
const MAX_TRACKED_LOCKS: usize = 1024;

/// What this client last saw of its locks.
pub(crate) struct UncontendedLocks {
    /// Each slot holds the hash of a lock and, in its lowest bits, how often the lock was free.
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
    /// Whether this lock is expected to be free.
    pub(crate) fn contains(&self, name: &LockName) -> bool {
        let (slot, lock_hash) = self.slot(name);
        slot.load(Ordering::Relaxed) == lock_hash | UNCONTENDED_THRESHOLD
    }

    /// Records that an attempt found the lock free.
    pub(crate) fn record_free(&self, name: &LockName) {
        let (slot, lock_hash) = self.slot(name);
        let seen = slot.load(Ordering::Relaxed);
        // Two concurrent attempts may count as one; the result is a guess in any case.
        let next = match seen {
            seen if seen == lock_hash | UNCONTENDED_THRESHOLD => return,
            seen if seen & !COUNT_MASK == lock_hash => seen + 1,
            _ => lock_hash | 1,
        };
        slot.store(next, Ordering::Relaxed);
    }

    /// Records that an attempt found another contender.
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

/// The bits of a slot that hold the count.
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
    fn lock_is_uncontended_after_free_acquisitions_in_a_row() {
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
    fn history_of_one_lock_does_not_apply_to_another() {
        let uncontended = UncontendedLocks::default();
        let names: Vec<_> = (0..4 * MAX_TRACKED_LOCKS)
            .map(|number| LockName::new(format!("lock-{number}")).unwrap())
            .collect();
        for name in &names {
            // By now, other locks occupy its slot.
            assert!(!uncontended.contains(name));
            for _ in 0..UNCONTENDED_THRESHOLD {
                uncontended.record_free(name);
            }
            assert!(uncontended.contains(name));
        }
    }
}
