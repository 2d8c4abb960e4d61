//! The check of a history.

use std::path::PathBuf;

use tenure_conformance::history::{Activity, Bounds, History, ReplayFile};

/// Checks a history. With a violation, saves the history and panics with the shortest counterexample.
pub(crate) fn judge(what: &str, history: History, bounds: Bounds) {
    println!("{what}: {}", Activity::of(&history));
    let replay_file = ReplayFile::new(history, bounds);
    let violations = replay_file.check();
    if let Some(shortest) = violations.first() {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let file = replay_file.write(&directory, what).unwrap();
        panic!(
            "{what}: {} violations; the shortest of them: {shortest}\nto check it again:\n    \
             HISTORY={} cargo test -p tenure-conformance --test replay -- --nocapture",
            violations.len(),
            file.display()
        );
    }
}
