//! The table of cases: it covers the contract, and the list in the docs equals it.

use std::{collections::BTreeSet, path::Path};

use tenure_conformance::{EXEMPT, SUITE_VERSION, cases, clauses};

#[test]
fn ids_are_unique() {
    let all = cases();
    let ids: BTreeSet<_> = all.iter().map(|case| case.id).collect();
    assert_eq!(ids.len(), all.len());
}

#[test]
fn every_clause_has_a_case_and_every_case_a_clause() {
    let known: BTreeSet<String> = clauses().into_iter().collect();
    let mut proved: BTreeSet<String> = BTreeSet::new();
    for case in cases() {
        assert!(!case.clauses.is_empty(), "{} proves nothing", case.id);
        for clause in case.clauses {
            assert!(known.contains(*clause), "{} names {clause}", case.id);
            proved.insert((*clause).to_owned());
        }
    }
    let exempt: BTreeSet<String> = EXEMPT
        .iter()
        .map(|(clause, _)| (*clause).to_owned())
        .collect();
    assert!(
        exempt.is_disjoint(&proved),
        "a case proves an exempt clause"
    );
    let open: Vec<_> = known
        .iter()
        .filter(|clause| !proved.contains(*clause))
        .collect();
    assert_eq!(
        open,
        exempt.iter().collect::<Vec<_>>(),
        "clauses without a case"
    );
}

/// The expected content of `docs/conformance-cases.md`.
fn list() -> String {
    let mut text = format!(
        "# The cases of the conformance suite\n\n\
         Version {SUITE_VERSION} of the suite has {} cases. This file is generated from the table in \
         `conformance-tests/src/table.rs`; after a change there, run \
         `CONFORMANCE_DOCS=1 cargo test -p tenure-conformance --test table`.\n\n\
         A case whose requirement the backend or its harness does not meet is shown as ignored, with the \
         reason.\n\n\
         | case | clauses | requirement | behaviour |\n|---|---|---|---|\n",
        cases().len()
    );
    for case in cases() {
        let needs = case.needs.map(|need| format!("`{need:?}`"));
        text.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            case.id,
            case.clauses.join(" "),
            needs.unwrap_or_default(),
            case.about
        ));
    }
    text
}

#[test]
fn list_in_the_docs_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance-cases.md");
    if std::env::var_os("CONFORMANCE_DOCS").is_some() {
        std::fs::write(&path, list()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == list(),
        "docs/conformance-cases.md is stale; run \
         `CONFORMANCE_DOCS=1 cargo test -p tenure-conformance --test table`"
    );
}
