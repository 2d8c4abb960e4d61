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
const ENOUGH: u64 = 16;

/// So many locks are remembered; one that falls into the place of another takes it.
const PLACES: usize = 1024;

/// What was last seen of the locks of one client.
pub(crate) struct Quiet {
    /// Of which lock, by its hash, and in the lowest bits how often it was free.
    places: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for Quiet {
    fn default() -> Self {
        Self {
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Quiet {
    /// Whether it is to be expected that this lock is free.
    pub(crate) fn is_quiet(&self, name: &LockName) -> bool {
        let (place, lock) = self.find(name);
        place.load(Ordering::Relaxed) == lock | ENOUGH
    }

    /// An attempt has found it free.
    pub(crate) fn was_free(&self, name: &LockName) {
        let (place, lock) = self.find(name);
        let seen = place.load(Ordering::Relaxed);
        // Two at once may count as one: it is a guess anyhow.
        let next = match seen {
            seen if seen == lock | ENOUGH => return,
            seen if seen & !BITS == lock => seen + 1,
            _ => lock | 1,
        };
        place.store(next, Ordering::Relaxed);
    }

    /// An attempt has found somebody else.
    pub(crate) fn was_taken(&self, name: &LockName) {
        let (place, lock) = self.find(name);
        place.store(lock, Ordering::Relaxed);
    }

    fn find(&self, name: &LockName) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(name.as_str());
        let index = usize::try_from(hash % PLACES as u64).unwrap_or(0);
        (&self.places[index], hash & !BITS)
    }
}

/// Those that hold the count.
const BITS: u64 = 0xff;

impl fmt::Debug for Quiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quiet").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_quiet_after_enough_free_ones_in_a_row() {
        let (quiet, name) = (Quiet::default(), LockName::new("a").unwrap());
        for _ in 0..2 {
            for _ in 0..ENOUGH {
                assert!(!quiet.is_quiet(&name));
                quiet.was_free(&name);
            }
            quiet.was_free(&name);
            assert!(quiet.is_quiet(&name));
            quiet.was_taken(&name);
        }
        assert!(!quiet.is_quiet(&name));
    }

    #[test]
    fn what_is_known_of_one_lock_is_not_believed_of_another() {
        let quiet = Quiet::default();
        let names: Vec<_> = (0..4 * PLACES)
            .map(|number| LockName::new(format!("lock-{number}")).unwrap())
            .collect();
        for name in &names {
            // Others have its place by now.
            assert!(!quiet.is_quiet(name));
            for _ in 0..ENOUGH {
                quiet.was_free(name);
            }
            assert!(quiet.is_quiet(name));
        }
    }
}
