//! `docs/mutants.md`, which is made from the table.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use tenure_conformance::clauses;

use crate::flaw::MUTANTS;

fn page() -> String {
    let mut text = format!(
        "# The broken backends\n\n\
         A suite that cannot fail proves nothing. Each of these {} backends is the memory backend with one \
         flaw, most of them shipped by somebody; the case that is named beside it was named beforehand, and \
         fails on it for that clause. The sound backend passes the same case. \
         `conformance-tests/tests/mutants` runs them all with the tests.\n\n\
         This file is made from the table in `conformance-tests/tests/mutants/flaw.rs`; after a change \
         there, run `CONFORMANCE_DOCS=1 cargo test -p tenure-conformance --test mutants page`.\n\n\
         Numbers in sources are issues of the project named. \"ours\" is a flaw that this project had, or \
         that its design has to keep out. DistributedLock is the library for .NET, Curator and kazoo are \
         libraries of ZooKeeper.\n\n\
         | | what is wrong | source | clause | caught by |\n|---|---|---|---|---|\n",
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
        "\nClauses that no flaw of a backend can break, or for which none is here: {}. The core keeps N1, \
         D2, D3, L4, K4, R3, R5, C2 and C3 whatever a backend does, and its own tests break it; S2 and S3 are \
         about bytes, which this backend has not.\n",
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
        "docs/mutants.md is out of date; its head says how to make it anew"
    );
}
