//! A suite that cannot fail proves nothing: each of these broken backends must make the case fail
//! that was named for it beforehand, and the sound backend below them must pass the same case.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test")]

mod driver;
mod flaw;
mod history;
mod page;
mod renewing;
mod store;

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

/// How many cases run at a time. Most of what they do is to wait.
const THREADS: usize = 8;

fn case(id: &str) -> Case {
    let found = cases().into_iter().find(|case| case.id == id);
    found.unwrap_or_else(|| panic!("there is no case {id}"))
}

fn run(id: &str, flaw: Option<Flaw>) -> Verdict {
    let harness: Arc<dyn Harness> = Arc::new(Broken(flaw));
    run_case_strictly(&case(id), &harness)
}

/// What is wrong with the suite's view of one mutant, if anything.
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
        verdict => Some(format!(
            "{id} finds fault with the sound backend: {verdict:?}"
        )),
    }
}

/// Does the same to all, some of them at a time, and collects what is wrong.
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
fn broken_backends_are_caught_by_the_case_named_for_them_and_the_sound_one_by_none() {
    let wrong = each(MUTANTS, run_case_on);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let named: BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.case).collect();
    let named: Vec<_> = named.into_iter().collect();
    let wrong = each(&named, |id| sound(id));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn there_are_enough_of_them_and_each_flaw_is_there_once() {
    let flaws: BTreeSet<Flaw> = MUTANTS.iter().map(|mutant| mutant.flaw).collect();
    assert_eq!(flaws.len(), MUTANTS.len());
    assert!(flaws.len() >= 25);
}
