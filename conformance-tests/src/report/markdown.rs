//! The matrix of cases and backends in Markdown, without the durations, which differ between runs.

use std::fmt::Write as _;

use super::{Mark, Report};
use crate::{SUITE_VERSION, cases};

/// Formats a page with the stores and dates of the runs, and the verdicts of all cases of the table. The
/// page also lists cases that no report contains.
#[must_use]
pub fn write(reports: &[Report]) -> String {
    let mut page = format!(
        "# The suite on every backend\n\n\
         Version {SUITE_VERSION} of the suite. `make matrix` generates this file from reports of \
         real runs.\n\n\
         | run | store | version | date | passed | failed | ignored |\n|---|---|---|---|---|---|---|\n"
    );
    for report in reports {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {} |",
            cell(&report.backend),
            cell(report.scheme.as_deref().unwrap_or("unknown")),
            cell(
                report
                    .store_version
                    .as_deref()
                    .unwrap_or(&format!("tenure {}", report.version))
            ),
            cell(report.started.split('T').next().unwrap_or_default()),
            report.count(Mark::Passed),
            report.count(Mark::Failed),
            report.count(Mark::Ignored),
        );
    }
    page.push_str("\n| case | clauses |");
    for report in reports {
        let _ = write!(page, " {} |", cell(&report.backend));
    }
    page.push_str("\n|---|---|");
    page.push_str(&"---|".repeat(reports.len()));
    page.push('\n');
    let mut reasons: Vec<String> = Vec::new();
    for case in cases() {
        let _ = write!(page, "| `{}` | {} |", case.id, case.clauses.join(" "));
        for report in reports {
            let ran = report.cases.iter().find(|ran| ran.id == case.id);
            let text = match ran.map(|ran| (ran.verdict, ran.reason.as_deref())) {
                None => "not run".to_owned(),
                Some((Mark::Passed, _)) => "passed".to_owned(),
                Some((Mark::Failed, _)) => "**failed**".to_owned(),
                Some((Mark::Ignored, reason)) => {
                    let reason = cell(reason.unwrap_or("no reason was given"));
                    let known = reasons.iter().position(|known| *known == reason);
                    let number = known.unwrap_or_else(|| {
                        reasons.push(reason);
                        reasons.len() - 1
                    });
                    format!("– ({})", number + 1)
                }
            };
            let _ = write!(page, " {text} |");
        }
        page.push('\n');
    }
    if !reasons.is_empty() {
        page.push_str("\nReasons why cases do not apply (–):\n\n");
        for (number, reason) in reasons.iter().enumerate() {
            let _ = writeln!(page, "{}. {reason}", number + 1);
        }
    }
    page
}

/// Escapes text for a cell of a table.
fn cell(text: &str) -> String {
    let mut shown = String::new();
    for character in super::text::plain(text).chars() {
        match character {
            '\n' | '\t' => shown.push(' '),
            '|' | '<' | '`' | '*' | '\\' => {
                shown.push('\\');
                shown.push(character);
            }
            _ => shown.push(character),
        }
    }
    shown
}
