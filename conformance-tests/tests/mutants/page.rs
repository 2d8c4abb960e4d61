//! `docs/mutants.md`, which is generated from the table.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use tenure_conformance::clauses;

use crate::flaw::MUTANTS;

fn page() -> String {
    let mut text = format!(
        "# The broken backends\n\n\
         A suite that cannot fail proves nothing. Each of these {} backends is the memory backend with one \
         flaw. Released software had most of these flaws. The case in the last column must fail on the \
         backend with this clause, and must pass on the memory backend without the flaw. \
         `conformance-tests/tests/mutants` checks this with the tests.\n\n\
         This file is generated from the table in `conformance-tests/tests/mutants/flaw.rs`; after a change \
         there, run `CONFORMANCE_DOCS=1 cargo test -p tenure-conformance --test mutants page`.\n\n\
         Numbers in sources are issues of the named project. \"ours\" is a flaw that this project had, or \
         that its design must prevent. DistributedLock is the library for .NET; Curator and kazoo are \
         libraries for ZooKeeper.\n\n\
         | | flaw | source | clause | found by |\n|---|---|---|---|---|\n",
        MUTANTS.len()
    );
    for (index, mutant) in MUTANTS.iter().enumerate() {
        let _ = writeln!(
            text,
            "| M{} | {} | {} | {} | `{}` |",
            index + 1,
            mutant.what,
            mutant.source,
            mutant.clause,
            mutant.case
        );
    }
    let guarded: BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.clause).collect();
    let open: Vec<String> = clauses()
        .into_iter()
        .filter(|clause| !guarded.contains(clause.as_str()))
        .collect();
    let _ = write!(
        text,
        "\nClauses that no flaw of a backend can violate, or without a flaw in this table: {}. The core keeps \
         N1, D2, D3, L4, K4, R3, R5, C2 and C3 with any backend, and has its own tests for violations; S2 and \
         S3 are about stored bytes, which this backend does not have.\n",
        open.join(", ")
    );
    text
}

#[test]
fn page_in_the_docs_says_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/mutants.md");
    if std::env::var_os("CONFORMANCE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page(),
        "docs/mutants.md is stale; its introduction contains the command that generates it"
    );
}
