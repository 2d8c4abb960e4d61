//! Checks a saved history again: `HISTORY=FILE cargo test -p tenure-conformance --test replay --
//! --nocapture`.

use std::path::PathBuf;

use tenure_conformance::history::{Activity, ReplayFile};

#[test]
fn named_history_has_no_violation() {
    let Some(file) = std::env::var_os("HISTORY").map(PathBuf::from) else {
        return;
    };
    let replay_file = ReplayFile::read(&file).unwrap();
    println!("{}: {}", file.display(), Activity::of(&replay_file.history));
    let violations = replay_file.check();
    for violation in &violations {
        println!("{violation}");
    }
    assert!(violations.is_empty(), "{} violations", violations.len());
}
