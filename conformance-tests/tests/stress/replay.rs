//! Looks at a saved history again: `HISTORY=FILE cargo test -p tenure-conformance --test replay --
//! --nocapture`.

use std::path::PathBuf;

use tenure_conformance::history::{Power, Saved};

#[test]
fn the_history_that_is_named_shows_no_violation() {
    let Some(file) = std::env::var_os("HISTORY").map(PathBuf::from) else {
        return;
    };
    let saved = Saved::read(&file).unwrap();
    println!("{}: {}", file.display(), Power::of(&saved.history));
    let violations = saved.check();
    for violation in &violations {
        println!("{violation}");
    }
    assert!(violations.is_empty(), "{} violations", violations.len());
}
