//! The page: one file with all that it needs in itself, no script, and no request to anywhere.

mod matrix;
mod style;
mod timeline;

use std::fmt::Write as _;

use super::{CaseReport, Mark, Report, environment::format_millis, text::escape};

/// So many of the slowest cases are shown for each backend.
const SLOWEST: usize = 12;

/// One page about all of these runs.
#[must_use]
pub fn write(reports: &[Report]) -> String {
    let passed = reports.iter().filter(|report| report.has_passed()).count();
    let failed = reports.len() - passed;
    let title = match reports {
        [one] => format!("Conformance of {}", escape(&one.backend)),
        _ => format!("Conformance of {} backends", reports.len()),
    };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>\n{}</style>\n</head>\n\
         <body>\n<a class=\"skip\" href=\"#clauses\">Skip to the matrix</a>\n<header>\n<h1>{title}</h1>\n",
        style::STYLESHEET
    );
    let verdict = match (failed, reports.len()) {
        (_, 0) => "There is no run to show.".to_owned(),
        (0, 1) => "It keeps the contract, as far as these cases show.".to_owned(),
        (0, _) => "Each keeps the contract, as far as these cases show.".to_owned(),
        (failed, all) => format!("{failed} of {all} failed."),
    };
    let class = if failed == 0 { "passed" } else { "failed" };
    let _ = writeln!(page, "<p class=\"verdict {class}\">{verdict}</p>");
    counts(&mut page, reports);
    page.push_str("</header>\n<main>\n");
    failures(&mut page, reports);
    matrix::clauses(&mut page, reports);
    matrix::cases(&mut page, reports);
    for (number, report) in reports.iter().enumerate() {
        backend(&mut page, number, report);
    }
    page.push_str("</main>\n<footer><p>Made by the conformance suite of tenure. Times are by the clock of the machine that ran it.</p></footer>\n</body>\n</html>\n");
    page
}

/// The counts of each run.
fn counts(page: &mut String, reports: &[Report]) {
    page.push_str("<ul class=\"counts\">\n");
    for report in reports {
        let _ = writeln!(
            page,
            "<li><b>{}</b> <span class=\"passed\">{} passed</span>, <span class=\"{}\">{} failed</span>, \
             {} ignored, in {}</li>",
            escape(&report.backend),
            report.count(Mark::Passed),
            if report.count(Mark::Failed) == 0 {
                "none"
            } else {
                "failed"
            },
            report.count(Mark::Failed),
            report.count(Mark::Ignored),
            format_millis(report.duration_ms),
        );
    }
    page.push_str("</ul>\n");
}

/// What failed, with its texts: the first thing that somebody wants to read.
fn failures(page: &mut String, reports: &[Report]) {
    let mut shown_any = false;
    for (number, report) in reports.iter().enumerate() {
        let broken = report.stress.as_ref().and_then(super::Stress::verdict);
        let failed = report
            .cases
            .iter()
            .filter(|case| case.verdict == Mark::Failed);
        let failed: Vec<&CaseReport> = failed.collect();
        if failed.is_empty() && broken.is_none() {
            continue;
        }
        if !shown_any {
            page.push_str("<section id=\"failures\">\n<h2>What failed</h2>\n");
            shown_any = true;
        }
        for case in failed {
            let _ = writeln!(
                page,
                "<article class=\"failure\" id=\"{}\">\n<h3>{} <span class=\"on\">on {}</span></h3>\n\
                 <p>{} <span class=\"on\">({}, after {})</span></p>\n<pre>{}</pre>\n</article>",
                anchor(number, &case.id),
                escape(&case.id),
                escape(&report.backend),
                escape(&case.about),
                escape(&case.clauses.join(" ")),
                format_millis(case.duration_ms),
                escape(case.reason.as_deref().unwrap_or("no reason was given")),
            );
        }
        if let Some(text) = broken {
            let _ = writeln!(
                page,
                "<article class=\"failure\">\n<h3>Workers on a few locks <span class=\"on\">on {}</span></h3>\n\
                 <pre>{}</pre>\n</article>",
                escape(&report.backend),
                escape(&text),
            );
        }
    }
    if shown_any {
        page.push_str("</section>\n");
    }
}

/// All about one run.
fn backend(page: &mut String, number: usize, report: &Report) {
    let _ = writeln!(
        page,
        "<section class=\"backend\" id=\"b{number}\">\n<h2>{}</h2>\n<dl>",
        escape(&report.backend)
    );
    let mut facts: Vec<(&str, String)> = Vec::new();
    facts.extend(report.endpoint.clone().map(|endpoint| ("store", endpoint)));
    facts.extend(
        report
            .store_version
            .clone()
            .map(|version| ("its version", version)),
    );
    facts.push((
        "suite",
        format!("version {}, of tenure {}", report.suite, report.version),
    ));
    facts.push((
        "run",
        format!("{}, {} cases at a time", report.started, report.jobs),
    ));
    let machine = &report.machine;
    facts.push((
        "machine",
        format!(
            "{} on {}, {} threads",
            machine.os, machine.arch, machine.cpus
        ),
    ));
    facts.extend(
        report
            .filter
            .clone()
            .map(|filter| ("only cases with", filter)),
    );
    facts.extend(
        report
            .capabilities
            .iter()
            .flat_map(super::DeclaredCapabilities::lines),
    );
    for (what, value) in facts {
        let _ = writeln!(
            page,
            "<div><dt>{what}</dt><dd>{}</dd></div>",
            escape(&value)
        );
    }
    page.push_str("</dl>\n");
    timings(page, report);
    ignored(page, report);
    if let Some(stress) = &report.stress {
        timeline::draw(page, number, &stress.history);
    }
    if !report.left.is_empty() {
        page.push_str("<h3>What stays behind</h3>\n<ul>\n");
        for line in &report.left {
            let _ = writeln!(page, "<li>{}</li>", escape(line));
        }
        page.push_str("</ul>\n");
    }
    page.push_str("</section>\n");
}

fn timings(page: &mut String, report: &Report) {
    let mut slowest: Vec<&CaseReport> = report.cases.iter().collect();
    slowest.sort_by_key(|case| std::cmp::Reverse(case.duration_ms));
    slowest.truncate(SLOWEST);
    let Some(longest) = slowest.first().map(|case| case.duration_ms.max(1)) else {
        return;
    };
    page.push_str(
        "<details>\n<summary>The slowest cases</summary>\n<table class=\"times\">\n<tbody>\n",
    );
    for case in slowest {
        let percent = case.duration_ms.saturating_mul(100) / longest;
        let _ = writeln!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"bar\"><span style=\"width:{percent}%\"></span></td></tr>",
            escape(&case.id),
            format_millis(case.duration_ms),
        );
    }
    page.push_str("</tbody>\n</table>\n</details>\n");
}

fn ignored(page: &mut String, report: &Report) {
    let all = report
        .cases
        .iter()
        .filter(|case| case.verdict == Mark::Ignored);
    let all: Vec<&CaseReport> = all.collect();
    if all.is_empty() {
        return;
    }
    let _ = writeln!(
        page,
        "<details open>\n<summary>What does not apply ({})</summary>\n<ul>",
        all.len()
    );
    for case in all {
        let _ = writeln!(
            page,
            "<li><code>{}</code>: {}</li>",
            escape(&case.id),
            escape(case.reason.as_deref().unwrap_or_default()),
        );
    }
    page.push_str("</ul>\n</details>\n");
}

/// Where the text of a failure stands on the page.
fn anchor(number: usize, id: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let id: String = id.chars().map(|c| if plain(c) { c } else { '-' }).collect();
    format!("f{number}-{id}")
}
