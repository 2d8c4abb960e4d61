//! A suite that cannot fail proves nothing: each of these broken backends must make the case fail
//! that was named for it beforehand, and the sound backend below them must pass the same case.
#![expect(clippy::panic, reason = "a test")]

mod flaw;
mod history;
mod store;

use std::sync::Arc;

use tenure_conformance::{Case, Harness, Verdict, cases, run_case};

use crate::{
    flaw::{FLAWS, Flaw},
    store::Broken,
};

fn case(id: &str) -> Case {
    let found = cases().into_iter().find(|case| case.id == id);
    found.unwrap_or_else(|| panic!("there is no case {id}"))
}

fn run(id: &str, flaw: Option<Flaw>) -> Verdict {
    let harness: Arc<dyn Harness> = Arc::new(Broken(flaw));
    run_case(&case(id), &harness)
}

/// What is wrong with the suite's view of one flaw, if anything.
fn look(flaw: Flaw, id: &str, clause: &str) -> Option<String> {
    match run(id, Some(flaw)) {
        Verdict::Failed(text) if text.contains(&format!("clause {clause} is broken")) => {}
        Verdict::Failed(text) => {
            return Some(format!(
                "{id} finds {flaw:?}, but names another clause: {text}"
            ));
        }
        verdict => return Some(format!("{id} does not find {flaw:?}: {verdict:?}")),
    }
    match run(id, None) {
        Verdict::Passed => None,
        verdict => Some(format!(
            "{id} finds fault with the sound backend: {verdict:?}"
        )),
    }
}

/// Looks at every third flaw from there on.
fn catch(from: usize) {
    let share = FLAWS.iter().skip(from).step_by(3);
    let wrong: Vec<_> = share
        .filter_map(|(flaw, id, clause)| look(*flaw, id, clause))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn broken_backends_are_caught_by_the_case_named_for_them_part_1() {
    catch(0);
}

#[test]
fn broken_backends_are_caught_by_the_case_named_for_them_part_2() {
    catch(1);
}

#[test]
fn broken_backends_are_caught_by_the_case_named_for_them_part_3() {
    catch(2);
}
