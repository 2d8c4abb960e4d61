//! The verdict over a history: what to print, and where the history is kept when it is bad.

use std::path::PathBuf;

use tenure_conformance::history::{Bounds, History, Power, ReplayFile};

/// Holds a history against its bounds; a bad one is saved, and the shortest counter-example shown.
pub(crate) fn judge(what: &str, history: History, bounds: Bounds) {
    println!("{what}: {}", Power::of(&history));
    let replay_file = ReplayFile::new(history, bounds);
    let violations = replay_file.check();
    if let Some(shortest) = violations.first() {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let file = replay_file.write(&directory, what).unwrap();
        panic!(
            "{what}: {} violations; the shortest of them: {shortest}\nto look at it again:\n    \
             HISTORY={} cargo test -p tenure-conformance --test replay -- --nocapture",
            violations.len(),
            file.display()
        );
    }
}
