//! The text format: a line for each case, and a summary.

use std::fmt::Write as _;

use super::{CaseReport, Mark, Report, Stress, environment::format_millis};

/// Formats one case as a line with its verdict, id, duration, and the reason if it is ignored.
#[must_use]
pub fn line(case: &CaseReport) -> String {
    let verdict = match case.verdict {
        Mark::Failed => "FAILED",
        other => other.as_str(),
    };
    let mut line = format!(
        "{verdict:<8} {:<56} {:>8}",
        case.id,
        format_millis(case.duration_ms)
    );
    if case.verdict == Mark::Ignored {
        let _ = write!(
            line,
            "  ({})",
            plain(case.reason.as_deref().unwrap_or_default())
        );
    }
    line.push('\n');
    line
}

/// Formats the summary: the failures with their reasons, and the numbers of verdicts.
#[must_use]
pub fn summary(report: &Report) -> String {
    let mut text = String::new();
    for case in &report.cases {
        if case.verdict == Mark::Failed {
            let reason = plain(case.reason.as_deref().unwrap_or_default());
            let _ = write!(
                text,
                "\n{} ({})\n    {}\n",
                case.id,
                case.clauses.join(" "),
                reason.replace('\n', "\n    ")
            );
        }
    }
    if let Some(stress) = &report.stress {
        let _ = write!(text, "\n{}\n", stress_line(stress));
    }
    for line in &report.left {
        let _ = writeln!(text, "left behind: {}", plain(line));
    }
    let _ = writeln!(
        text,
        "\n{}: {} passed, {} failed, {} ignored in {} (suite version {})",
        plain(&report.backend),
        report.count(Mark::Passed),
        report.count(Mark::Failed),
        report.count(Mark::Ignored),
        format_millis(report.duration_ms),
        report.suite,
    );
    text
}

/// Formats the stress run.
fn stress_line(stress: &Stress) -> String {
    let mut text = format!(
        "stress run: grants: {}, acquires: {}, faults: {}",
        stress.history.grants.len(),
        stress.history.waits.len(),
        stress.history.faults.len()
    );
    match (&stress.error, stress.violations.first()) {
        (Some(error), _) => {
            let _ = write!(text, "; FAILED: {}", plain(error));
        }
        (None, None) => text.push_str("; no violation"),
        (None, Some(shortest)) => {
            let _ = write!(
                text,
                "; FAILED with {} violations, the shortest: {}",
                stress.violations.len(),
                plain(shortest)
            );
        }
    }
    text
}

/// Formats the whole report.
#[must_use]
pub fn write(report: &Report) -> String {
    let mut text: String = report.cases.iter().map(line).collect();
    text.push_str(&summary(report));
    text
}

/// Escapes characters of foreign text that could move the cursor or change the reading direction. Line
/// breaks and tabs remain.
pub(crate) fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => shown.push(character),
            '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{ffff}'
            | '\u{e0000}'..='\u{e007f}' => shown.extend(character.escape_default()),
            _ if character.is_control() => shown.extend(character.escape_default()),
            _ => shown.push(character),
        }
    }
    shown
}

/// Escapes [`plain`] text for an element or a quoted attribute of HTML or XML. XML cannot represent most
/// control characters, and an attribute keeps line breaks only as references.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in plain(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            _ => escaped.push(character),
        }
    }
    escaped
}
