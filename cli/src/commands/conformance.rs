//! `tenure conformance`: runs the suite on the configured store, in a temporary namespace.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tenure::{Config, Registry, settings::Value};
use tenure_conformance::{
    Harness, Store,
    report::{self, Form, Progress, Report, Suite},
};

use crate::{
    args::{Conformance, Format, Global},
    exit::{Failure, IO, USAGE, print_warning},
    output,
    setup::{load, runtime, sources},
};

/// Exit code if a case failed.
const FAILED: u8 = 1;
/// Exit code if it was interrupted.
const INTERRUPTED: u8 = 130;

/// Runs the suite, or shows the reports of earlier runs.
pub(super) fn run(
    options: &Conformance,
    global: &Global,
    registry: &Registry,
) -> Result<ExitCode, Failure> {
    let files = files(&options.report)?;
    if !options.from.is_empty() {
        let reports = read(&options.from)?;
        deliver(&reports, &files)?;
        let form = form(global.output);
        output::write(report::write(form, &reports))?;
        return Ok(code(&reports));
    }
    let config = load(&sources(global))?;
    let store = Store::new(config.open(registry)?, &config.namespace)?;
    let store = Arc::new(store.with_secrets(secrets(&config, registry)));
    let harness: Arc<dyn Harness> = Arc::<Store>::clone(&store);
    if let Some(code) = tenure_conformance::serve_if_asked(&harness) {
        return Ok(code);
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    let suite = Suite::new(harness)
        .filter(options.filter.clone())
        .jobs(usize::from(options.jobs))
        .strict(options.strict)
        .stopped_by(Arc::clone(&interrupted))
        .workers(arguments(global));
    if options.list {
        return list(&suite);
    }
    if suite.chosen().is_empty() {
        let text = "no case id contains this text; `tenure conformance --list` shows all ids";
        return Err(Failure::new(USAGE, text));
    }
    watch(&interrupted)?;
    let report = attempt(suite, options, global, &store, &interrupted);
    let left = runtime()?.block_on(store.clean_up());
    let mut report = report?;
    report.left = left;
    let reports = [report];
    let [report] = &reports;
    match global.output {
        // Each case already has its line.
        Format::Text => output::write(report::text::summary(report))?,
        Format::Json => output::write(report::json::write(report))?,
    }
    deliver(&reports, &files)?;
    if interrupted.load(Ordering::Relaxed) {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(code(&reports))
}

/// Runs the suite. The caller must clean up whatever the result is.
fn attempt(
    suite: Suite,
    options: &Conformance,
    global: &Global,
    store: &Arc<Store>,
    interrupted: &AtomicBool,
) -> Result<Report, Failure> {
    let harness: Arc<dyn Harness> = Arc::<Store>::clone(store);
    // An unreachable store is an error, not a failure of the suite.
    runtime()?.block_on(async {
        suite.probe().await?;
        if let Err(reason) = store.reach(&arguments(global)).await {
            print_warning(&format!(
                "warning: cannot determine whether other processes reach the store: {reason}"
            ));
        }
        Ok::<_, Failure>(())
    })?;
    let show = global.output == Format::Text;
    let mut report = suite.run(&|progress| {
        if let (true, Progress::Ended(case)) = (show, progress) {
            // A closed stdout is reported when the summary is written.
            let _ = output::write(report::text::line(case));
        }
    });
    if !options.stress.is_zero() && !interrupted.load(Ordering::Relaxed) {
        report.stress = Some(report::stress(&harness, options.stress));
    }
    Ok(report)
}

/// Returns the arguments with which this program starts again and reads the same configuration.
/// Secrets come from the file or the environment, as in this process.
fn arguments(global: &Global) -> Vec<OsString> {
    let mut arguments = vec![OsString::from("conformance")];
    let mut add = |name: &str, value: Option<OsString>| {
        if let Some(value) = value {
            arguments.extend([OsString::from(name), value]);
        }
    };
    add("--url", global.url.clone().map(OsString::from));
    add("--config", global.config.clone().map(OsString::from));
    add("--namespace", global.namespace.clone().map(OsString::from));
    arguments
}

/// Returns the configured secrets, which must not appear anywhere.
fn secrets(config: &Config, registry: &Registry) -> Vec<String> {
    let settings = &config.settings;
    let password = settings
        .password
        .iter()
        .map(|secret| secret.expose().to_owned());
    let factory = registry.factory(settings.url.scheme());
    let keys = factory.map_or(&[][..], |factory| factory.secret_option_keys());
    let options = settings
        .options
        .iter()
        .filter(|(key, _)| keys.contains(key));
    let options = options.filter_map(|(_, entry)| match &entry.value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    });
    password
        .chain(options)
        .filter(|secret| !secret.is_empty())
        .collect()
}

/// On the first INT or TERM, running cases end and no new case starts. The second signal ends the
/// program as if it were not caught.
fn watch(interrupted: &Arc<AtomicBool>) -> Result<(), Failure> {
    use signal_hook::{
        consts::{SIGINT, SIGTERM},
        flag,
    };
    let catch = || -> std::io::Result<()> {
        for signal in [SIGINT, SIGTERM] {
            flag::register_conditional_default(signal, Arc::clone(interrupted))?;
            flag::register(signal, Arc::clone(interrupted))?;
        }
        Ok(())
    };
    catch().map_err(|error| Failure::new(IO, format!("catching signals: {error}")))
}

fn list(suite: &Suite) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    for case in suite.chosen() {
        text += &format!("{} [{}] {}\n", case.id, case.clauses.join(" "), case.about);
    }
    output::write(text)?;
    Ok(ExitCode::SUCCESS)
}

fn code(reports: &[Report]) -> ExitCode {
    match reports.iter().all(Report::has_passed) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    }
}

/// Returns the files to write and their formats.
fn files(paths: &[PathBuf]) -> Result<Vec<(&PathBuf, Form)>, Failure> {
    let form = |path: &PathBuf| {
        Form::of(path).ok_or_else(|| {
            let shown = path.display();
            let text =
                format!("--report {shown}: the name must end in .json, .xml, .html, .md or .txt");
            Failure::new(USAGE, text)
        })
    };
    paths.iter().map(|path| Ok((path, form(path)?))).collect()
}

fn form(format: Format) -> Form {
    match format {
        Format::Text => Form::Text,
        Format::Json => Form::Json,
    }
}

/// Reads earlier reports.
fn read(paths: &[PathBuf]) -> Result<Vec<Report>, Failure> {
    let mut reports = Vec::new();
    for path in paths {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(IO, format!("reading {shown}: {error}")))?;
        let read = report::json::read(&text);
        reports.extend(read.map_err(|what| Failure::new(USAGE, format!("{shown}: {what}")))?);
    }
    Ok(reports)
}

/// Writes all requested files.
fn deliver(reports: &[Report], files: &[(&PathBuf, Form)]) -> Result<(), Failure> {
    for (path, form) in files {
        std::fs::write(path, report::write(*form, reports)).map_err(|error| {
            Failure::new(
                IO,
                format!("writing the report {}: {error}", path.display()),
            )
        })?;
    }
    Ok(())
}
