//! A suite that cannot fail proves nothing. Each of these broken backends must fail its named case, and the
//! memory backend without the flaw must pass the same case.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test")]

mod driver;
mod flaw;
mod history;
mod modes;
mod page;
mod renewing;
mod store;
mod two_servers;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tenure_conformance::{Case, Harness, Verdict, cases, run_case_strictly};

use crate::{
    flaw::{Flaw, MUTANTS, Mutant},
    store::Broken,
};

/// The number of cases that run at the same time. Cases mostly wait.
const THREADS: usize = 8;

fn case(id: &str) -> Case {
    let found = cases().into_iter().find(|case| case.id == id);
    found.unwrap_or_else(|| panic!("there is no case {id}"))
}

fn run(id: &str, flaw: Option<Flaw>) -> Verdict {
    let harness: Arc<dyn Harness> = Arc::new(Broken(flaw));
    run_case_strictly(&case(id), &harness)
}

/// Returns an error unless the suite finds the flaw of the mutant.
fn run_case_on(mutant: &Mutant) -> Option<String> {
    let Mutant {
        flaw, clause, case, ..
    } = mutant;
    match run(case, Some(*flaw)) {
        Verdict::Failed(text) if text.contains(&format!("clause {clause} is broken")) => None,
        Verdict::Failed(text) => Some(format!(
            "{case} finds {flaw:?}, but names another clause: {text}"
        )),
        verdict => Some(format!("{case} does not find {flaw:?}: {verdict:?}")),
    }
}

fn sound(id: &str) -> Option<String> {
    match run(id, None) {
        Verdict::Passed => None,
        verdict => Some(format!("{id} fails on the sound backend: {verdict:?}")),
    }
}

/// Checks all items, several at the same time, and collects the errors.
fn each<T: Sync>(all: &[T], check: impl Fn(&T) -> Option<String> + Sync) -> Vec<String> {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(found) = check(one) {
                        let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
                        wrong.push(found);
                    }
                }
            });
        }
    });
    wrong.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn each_flaw_is_found_by_its_case_and_the_sound_backend_passes_all_of_them() {
    let named: BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.case).collect();
    let mut runs: Vec<_> = named.into_iter().map(|id| (id, None)).collect();
    runs.extend(MUTANTS.iter().map(|mutant| (mutant.case, Some(mutant))));
    // The longest cases first, so that none of them runs alone at the end.
    let is_long = |id: &str| id.starts_with("faults::slow") || id.starts_with("servers::");
    runs.sort_by_key(|(id, mutant)| (!is_long(id), mutant.is_none()));
    let wrong = each(&runs, |(id, mutant)| {
        mutant.map_or_else(|| sound(id), run_case_on)
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn mutants_have_distinct_flaws() {
    let flaws: BTreeSet<Flaw> = MUTANTS.iter().map(|mutant| mutant.flaw).collect();
    assert_eq!(flaws.len(), MUTANTS.len());
    assert!(flaws.len() >= 25);
}
