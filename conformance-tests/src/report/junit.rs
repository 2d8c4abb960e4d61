//! The JUnit XML format for continuous integration.

use std::fmt::Write as _;

use super::{Mark, Report, text::escape};

/// Formats each report as a `testsuite`, in one `testsuites` element.
#[must_use]
pub fn write(reports: &[Report]) -> String {
    let mut suites = String::new();
    let (mut tests, mut failures, mut skipped, mut millis) = (0, 0, 0, 0);
    for report in reports {
        let stressed = usize::from(report.stress.is_some());
        let broken = report
            .stress
            .as_ref()
            .is_some_and(|stress| !stress.has_passed());
        let counts = (
            report.cases.len() + stressed,
            report.count(Mark::Failed) + usize::from(broken),
            report.count(Mark::Ignored),
        );
        tests += counts.0;
        failures += counts.1;
        skipped += counts.2;
        millis += report.duration_ms;
        suite(&mut suites, report, counts);
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites name=\"tenure conformance\" tests=\"{tests}\" failures=\"{failures}\" \
         skipped=\"{skipped}\" errors=\"0\" time=\"{}\">\n{suites}</testsuites>\n",
        seconds(millis)
    )
}

fn suite(text: &mut String, report: &Report, (tests, failures, skipped): (usize, usize, usize)) {
    let backend = escape(&report.backend);
    let _ = write!(
        text,
        "  <testsuite name=\"conformance.{backend}\" tests=\"{tests}\" failures=\"{failures}\" \
         skipped=\"{skipped}\" errors=\"0\" time=\"{}\" timestamp=\"{}\">\n    <properties>\n",
        seconds(report.duration_ms),
        escape(report.started.trim_end_matches('Z')),
    );
    let suite_version = report.suite.to_string();
    let properties = [
        ("suite", Some(&suite_version)),
        ("version", Some(&report.version)),
        ("scheme", report.scheme.as_ref()),
        ("endpoint", report.endpoint.as_ref()),
        ("store_version", report.store_version.as_ref()),
    ];
    for (name, value) in properties {
        if let Some(value) = value {
            let value = escape(value);
            let _ = writeln!(text, "      <property name=\"{name}\" value=\"{value}\"/>");
        }
    }
    text.push_str("    </properties>\n");
    for case in &report.cases {
        let (module, name) = case.id.split_once("::").unwrap_or(("", &case.id));
        let _ = write!(
            text,
            "    <testcase classname=\"conformance.{backend}.{}\" name=\"{}\" time=\"{}\"",
            escape(module),
            escape(name),
            seconds(case.duration_ms)
        );
        let reason = case.reason.as_deref().unwrap_or_default();
        match case.verdict {
            Mark::Passed => text.push_str("/>\n"),
            Mark::Failed => failed(text, reason),
            Mark::Ignored => {
                let _ = write!(
                    text,
                    ">\n      <skipped message=\"{}\"/>\n    </testcase>\n",
                    escape(reason)
                );
            }
        }
    }
    if let Some(stress) = &report.stress {
        let _ = write!(
            text,
            "    <testcase classname=\"conformance.{backend}\" name=\"stress\" time=\"{}\"",
            seconds(stress.duration_ms)
        );
        match stress.verdict() {
            None => text.push_str("/>\n"),
            Some(reason) => failed(text, &reason),
        }
    }
    text.push_str("  </testsuite>\n");
}

fn failed(text: &mut String, reason: &str) {
    let first = reason.lines().next().unwrap_or_default();
    let _ = write!(
        text,
        ">\n      <failure message=\"{}\">{}</failure>\n    </testcase>\n",
        escape(first),
        escape(reason)
    );
}

fn seconds(millis: u64) -> String {
    format!("{}.{:03}", millis / 1_000, millis % 1_000)
}
