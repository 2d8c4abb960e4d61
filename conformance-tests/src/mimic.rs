//! The runner for a test target with `harness = false`.

use std::{process::ExitCode, sync::Arc};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::{
    Harness, cases,
    runner::{Verdict, expected, run_launching},
    worker::{self, Launcher},
};

/// How many cases run at the same time, unless the command line says otherwise. Most of what they do
/// is to wait.
const THREADS: usize = 6;

/// Runs the suite on a harness, with the command line of an ordinary test binary: filter,
/// `--exact`, `--list`, `--test-threads`. Works under `cargo test` and `cargo nextest`.
///
/// A case that does not apply is shown as ignored, with the reason. It is a failure if no case
/// ran at all. With `CONFORMANCE_STRICT=1` a case that is ignored without being named by
/// [`Harness::expected_ignores`] is a failure too.
#[must_use]
pub fn main(harness: impl Harness) -> ExitCode {
    let harness: Arc<dyn Harness> = Arc::new(harness);
    if let Some(code) = worker::serve_if_asked(&harness) {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let trials = cases()
        .into_iter()
        .map(|case| {
            // A runner that lists first, and starts each case by itself, must learn from the list
            // what does not apply.
            let flagged = arguments.list && expected(&case, &*harness).is_some();
            let harness = Arc::clone(&harness);
            let test = move |_| match run_launching(&case, &harness, Some(Launcher::bare())) {
                Verdict::Passed => Ok(Completion::Completed),
                Verdict::Ignored(reason) => Ok(Completion::ignored_with(reason)),
                Verdict::Failed(text) => Err(Failed::from(text)),
            };
            Trial::ignorable_test(case.id, move || test(())).with_ignored_flag(flagged)
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if arguments.list || conclusion.has_failed() {
        return conclusion.exit_code();
    }
    if conclusion.num_passed == 0 {
        eprintln!("no case was run, which proves nothing: it counts as a failure");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}
