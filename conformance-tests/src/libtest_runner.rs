//! The runner for a test target with `harness = false`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::{
    Harness,
    case::Case,
    cases,
    launcher::Launcher,
    report::{self, Form, JOBS, Mark, Suite},
    runner::expected,
    worker,
};

/// How long workers compete for a few locks for the timeline of a report.
const STRESS_DURATION: Duration = Duration::from_secs(3);

/// The longest cases.
const LONGEST_CASES: [&str; 2] = [
    "releasing::nothing_stays_after_many_cycles",
    "token::rises_over_a_thousand_hand_overs",
];

/// Runs the suite on a harness, with the command line of an ordinary test binary: filter,
/// `--exact`, `--list`, `--test-threads`. Works under `cargo test` and `cargo nextest`.
///
/// A case that does not apply is shown as ignored, with the reason. The run fails if no case ran at
/// all. With `CONFORMANCE_STRICT=1` an ignored case that [`Harness::expected_ignores`] does not name
/// is a failure too.
///
/// With `CONFORMANCE_REPORT=DIRECTORY` this function writes `NAME.json`, `NAME.xml` and `NAME.html` to
/// the directory ([`report`](mod@crate::report)), where NAME is the name of the harness, and workers
/// compete for a few locks for the timeline. It writes no report if every case has a separate process
/// (`cargo nextest`).
#[must_use]
pub fn main(harness: impl Harness) -> ExitCode {
    let harness: Arc<dyn Harness> = Arc::new(harness);
    if let Some(code) = worker::serve_if_asked(&harness) {
        return code;
    }
    let mut arguments = Arguments::from_args();
    let jobs = *arguments.test_threads.get_or_insert(JOBS);
    let suite = Suite::new(Arc::clone(&harness))
        .launcher(Launcher::bare())
        .filter(arguments.filter.clone())
        .jobs(jobs);
    let suite = Arc::new(suite);
    let mut cases = cases();
    longest_first(&mut cases);
    let trials = cases
        .into_iter()
        .map(|case| {
            // A runner that starts each case in its own process reads from the list which cases do not
            // apply.
            let flagged = arguments.list && expected(&case, &*harness).is_some();
            let suite = Arc::clone(&suite);
            let test = move || {
                let done = suite.run_one(&case);
                let reason = done.reason.unwrap_or_default();
                match done.verdict {
                    Mark::Passed => Ok(Completion::Completed),
                    Mark::Ignored => Ok(Completion::ignored_with(reason)),
                    Mark::Failed => Err(Failed::from(reason)),
                }
            };
            Trial::ignorable_test(case.id, test).with_ignored_flag(flagged)
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if arguments.list {
        return conclusion.exit_code();
    }
    let reported = match directory() {
        Some(directory) => write_reports(&suite, &harness, &directory),
        None => Ok(true),
    };
    match reported {
        Ok(true) => {}
        Ok(false) => return ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the report could not be written: {error}");
            return ExitCode::FAILURE;
        }
    }
    if !conclusion.has_failed() && conclusion.num_passed == 0 {
        eprintln!("no case was run; this counts as a failure");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Moves the longest cases to the front, so that none of them runs alone at the end. Cases that start servers
/// stay at the end, where they disturb the fewest other cases.
fn longest_first(cases: &mut [Case]) {
    cases.sort_by_key(|case| !LONGEST_CASES.contains(&case.id));
}

/// Returns the directory for the reports.
fn directory() -> Option<PathBuf> {
    let directory = std::env::var_os("CONFORMANCE_REPORT").filter(|value| !value.is_empty())?;
    if std::env::var_os("NEXTEST").is_some() {
        eprintln!("no report: each case runs in its own process");
        return None;
    }
    Some(PathBuf::from(directory))
}

/// Writes the report in all formats; returns whether the timeline shows no violation.
fn write_reports(
    suite: &Suite,
    harness: &Arc<dyn Harness>,
    directory: &Path,
) -> std::io::Result<bool> {
    let stress = report::stress(harness, STRESS_DURATION);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    if let Err(error) = runtime.block_on(suite.probe()) {
        eprintln!("the report does not contain the backend's capabilities: {error}");
    }
    let mut report = suite.report();
    let verdict = stress.verdict();
    report.stress = Some(stress);
    std::fs::create_dir_all(directory)?;
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let name: String = (harness.name().chars())
        .map(|character| if plain(character) { character } else { '-' })
        .collect();
    let reports = [report];
    for (ending, form) in [
        ("json", Form::Json),
        ("xml", Form::JUnit),
        ("html", Form::Html),
    ] {
        let path = directory.join(format!("{name}.{ending}"));
        std::fs::write(path, report::write(form, &reports))?;
    }
    if let Some(reason) = &verdict {
        eprintln!("stress run: {reason}");
    }
    Ok(verdict.is_none())
}
