//! Power: a run in which too little happened proves nothing, and must not pass.

use std::{collections::BTreeMap, fmt};

use super::{History, Tenancy, Wait};

/// How much happened in a run, or how much must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Power {
    /// Acquires, ends of grants and writes, whatever came of them.
    pub operations: usize,
    /// Grants.
    pub grants: usize,
    /// Grants that were waited for while somebody else held the lock.
    pub contended: usize,
    /// Faults.
    pub faults: usize,
    /// Faults that were seen to take effect.
    pub effects: usize,
}

impl Power {
    /// Nothing. Set what matters.
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

    /// So many operations.
    #[must_use]
    pub const fn operations(mut self, count: usize) -> Self {
        self.operations = count;
        self
    }

    /// So many grants, and so many of them waited for.
    #[must_use]
    pub const fn grants(mut self, count: usize, contended: usize) -> Self {
        self.grants = count;
        self.contended = contended;
        self
    }

    /// So many faults, and so many of them seen to take effect.
    #[must_use]
    pub const fn faults(mut self, count: usize, effects: usize) -> Self {
        self.faults = count;
        self.effects = effects;
        self
    }

    /// What there is in a history. In time linear in its length, but for sorting.
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

    /// Holds it against what there must be at least.
    ///
    /// # Errors
    ///
    /// [`Quiet`], which names both.
    pub fn at_least(&self, least: &Self) -> Result<(), Quiet> {
        let enough = self.operations >= least.operations
            && self.grants >= least.grants
            && self.contended >= least.contended
            && self.faults >= least.faults
            && self.effects >= least.effects;
        if enough {
            return Ok(());
        }
        Err(Quiet::new(format!(
            "too quiet to prove anything: there were {self}; there must be at least {least}"
        )))
    }
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations, {} grants ({} contended), {} faults ({} of effect)",
            self.operations, self.grants, self.contended, self.faults, self.effects
        )
    }
}

/// Why a run proves nothing: too little happened in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quiet(String);

impl Quiet {
    pub(super) const fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Quiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Quiet {}

/// How many waits came to a grant while somebody else's grant of the lock lay within them.
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
        // Tenancies of one lock follow one another, so that the ones that matter lie side by side.
        let end = grants.partition_point(|grant| grant.held_from < wait.ended);
        let before = grants[..end].iter().rev().take(3);
        before
            .filter(|grant| grant.worker != wait.worker)
            .any(|grant| wait.asked < grant.held_until)
    };
    history.waits.iter().filter(is_contended).count()
}
