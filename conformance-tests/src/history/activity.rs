//! The activity of a run. A run with too little activity proves nothing and must not pass.

use std::{collections::BTreeMap, fmt};

use super::{History, Tenancy, Wait};

/// The activity of a run, or the minimum of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Activity {
    /// The number of acquires, ends of grants, and writes.
    pub operations: usize,
    /// The number of grants.
    pub grants: usize,
    /// The number of grants for which a worker waited while another worker held the lock.
    pub contended: usize,
    /// The number of faults.
    pub faults: usize,
    /// The number of faults with an observed effect.
    pub effects: usize,
}

impl Activity {
    /// Creates a minimum of zero.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            operations: 0,
            grants: 0,
            contended: 0,
            faults: 0,
            effects: 0,
        }
    }

    /// Sets the number of operations.
    #[must_use]
    pub const fn operations(mut self, count: usize) -> Self {
        self.operations = count;
        self
    }

    /// Sets the numbers of grants and of contended grants.
    #[must_use]
    pub const fn grants(mut self, count: usize, contended: usize) -> Self {
        self.grants = count;
        self.contended = contended;
        self
    }

    /// Sets the numbers of faults and of faults with an observed effect.
    #[must_use]
    pub const fn faults(mut self, count: usize, effects: usize) -> Self {
        self.faults = count;
        self.effects = effects;
        self
    }

    /// Returns the activity of a history.
    #[must_use]
    pub fn of(history: &History) -> Self {
        Self {
            operations: history.waits.len() + history.grants.len() + history.writes.len(),
            grants: history.grants.len(),
            contended: contended(history),
            faults: history.faults.len(),
            effects: history
                .faults
                .iter()
                .filter(|fault| fault.took_effect)
                .count(),
        }
    }

    /// Compares the activity with a minimum.
    ///
    /// # Errors
    ///
    /// Returns [`TooLittleActivity`], which names both.
    pub fn at_least(&self, least: &Self) -> Result<(), TooLittleActivity> {
        let enough = self.operations >= least.operations
            && self.grants >= least.grants
            && self.contended >= least.contended
            && self.faults >= least.faults
            && self.effects >= least.effects;
        if enough {
            return Ok(());
        }
        Err(TooLittleActivity::new(format!(
            "too little activity to prove anything: {self}; the minimum is {least}"
        )))
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations, {} grants ({} contended), {} faults ({} with effect)",
            self.operations, self.grants, self.contended, self.faults, self.effects
        )
    }
}

/// The error that a run had too little activity to prove anything.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooLittleActivity(String);

impl TooLittleActivity {
    pub(super) const fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for TooLittleActivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TooLittleActivity {}

/// Counts the granted waits during which another worker held the lock.
fn contended(history: &History) -> usize {
    let mut locks: BTreeMap<&str, Vec<&Tenancy>> = BTreeMap::new();
    for grant in &history.grants {
        locks.entry(&grant.lock).or_default().push(grant);
    }
    for grants in locks.values_mut() {
        grants.sort_by_key(|grant| grant.held_from);
    }
    let is_contended = |wait: &&Wait| {
        let Some(grants) = locks
            .get(wait.lock.as_str())
            .filter(|_| wait.token.is_some())
        else {
            return false;
        };
        // The grants of one lock do not overlap, so that only the last few before the end matter.
        let end = grants.partition_point(|grant| grant.held_from < wait.ended);
        let before = grants[..end].iter().rev().take(3);
        before
            .filter(|grant| grant.worker != wait.worker)
            .any(|grant| wait.asked < grant.held_until)
    };
    history.waits.iter().filter(is_contended).count()
}
