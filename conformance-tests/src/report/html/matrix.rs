//! The two tables: clauses by backends, and cases by backends.

use std::fmt::Write as _;

use super::{anchor, escape, format_millis};
use crate::{
    cases as table, clauses as all_clauses,
    report::{CaseReport, Mark, Report},
};

/// The letters of the clauses with their titles.
const CHAPTERS: &[(&str, &str)] = &[
    ("N", "Names"),
    ("X", "Exclusion"),
    ("T", "Fencing token"),
    ("D", "Deadline"),
    ("L", "Loss"),
    ("A", "Acquiring"),
    ("W", "Waiting"),
    ("K", "Renewing"),
    ("R", "Releasing"),
    ("I", "Inspecting and evicting"),
    ("C", "Capabilities"),
    ("S", "Secrets, input, change"),
    ("M", "Shared locks and permits"),
    ("E", "Leaders"),
    ("H", "Minimum hold"),
];

fn head(page: &mut String, id: &str, title: &str, first: &str, reports: &[Report]) {
    let _ = writeln!(
        page,
        "<section id=\"{id}\">\n<h2>{title}</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" \
         aria-label=\"{title}\">\n<table class=\"matrix\">\n<thead><tr><th scope=\"col\">{first}</th>"
    );
    for (number, report) in reports.iter().enumerate() {
        let _ = write!(
            page,
            "<th scope=\"col\"><a href=\"#b{number}\">{}</a></th>",
            escape(&report.backend)
        );
    }
    page.push_str("</tr></thead>\n");
}

/// The clauses by backends.
pub(super) fn clauses(page: &mut String, reports: &[Report]) {
    head(
        page,
        "clauses",
        "Clauses of the contract",
        "clause",
        reports,
    );
    let all = all_clauses();
    for (letter, title) in CHAPTERS {
        let _ = writeln!(
            page,
            "<tbody>\n<tr class=\"chapter\"><th scope=\"rowgroup\" colspan=\"{}\">{title}</th></tr>",
            reports.len() + 1
        );
        for clause in all.iter().filter(|clause| clause.starts_with(letter)) {
            let _ = write!(
                page,
                "<tr data-clause=\"{clause}\"><th scope=\"row\">{clause}</th>"
            );
            for (number, report) in reports.iter().enumerate() {
                clause_cell(page, number, report, clause);
            }
            page.push_str("</tr>\n");
        }
        page.push_str("</tbody>\n");
    }
    page.push_str("</table>\n</div>\n</section>\n");
}

fn clause_cell(page: &mut String, number: usize, report: &Report, clause: &str) {
    let proves = |case: &&CaseReport| case.clauses.iter().any(|proved| proved == clause);
    let those: Vec<&CaseReport> = report.cases.iter().filter(proves).collect();
    let count = |mark| those.iter().filter(|case| case.verdict == mark).count();
    let (passed, failed) = (count(Mark::Passed), count(Mark::Failed));
    let ran = passed + failed;
    let first = those.iter().find(|case| case.verdict == Mark::Failed);
    let _ = match first {
        Some(case) => write!(
            page,
            "<td class=\"failed\"><a href=\"#{}\">✗ {failed} of {ran} failed</a></td>",
            anchor(number, &case.id)
        ),
        None if passed > 0 => write!(
            page,
            "<td class=\"passed\">✓ <span class=\"n\">{passed}{}</span></td>",
            if passed < those.len() {
                format!(" of {}", those.len())
            } else {
                String::new()
            }
        ),
        None if those.is_empty() => write!(page, "<td class=\"absent\">not run</td>"),
        None => write!(page, "<td class=\"ignored\">does not apply</td>"),
    };
}

/// The cases by backends, with their durations.
pub(super) fn cases(page: &mut String, reports: &[Report]) {
    head(page, "cases", "Cases", "case", reports);
    page.push_str("<tbody>\n");
    for (id, clauses, about) in rows(reports) {
        let _ = write!(
            page,
            "<tr data-case=\"{0}\"><th scope=\"row\"><code>{0}</code> <span class=\"on\">{1}</span>\
             <span class=\"about\">{2}</span></th>",
            escape(&id),
            escape(&clauses),
            escape(&about)
        );
        for (number, report) in reports.iter().enumerate() {
            case_cell(page, number, report.cases.iter().find(|case| case.id == id));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n</div>\n</section>\n");
}

fn case_cell(page: &mut String, number: usize, case: Option<&CaseReport>) {
    let _ = match case {
        None => write!(page, "<td class=\"absent\">not run</td>"),
        Some(case) => match case.verdict {
            Mark::Passed => write!(
                page,
                "<td class=\"passed\">✓ <span class=\"n\">{}</span></td>",
                format_millis(case.duration_ms)
            ),
            Mark::Failed => write!(
                page,
                "<td class=\"failed\"><a href=\"#{}\">✗ failed</a></td>",
                anchor(number, &case.id)
            ),
            Mark::Ignored => write!(
                page,
                "<td class=\"ignored\" title=\"{}\">–<span class=\"unseen\"> does not apply</span></td>",
                escape(case.reason.as_deref().unwrap_or_default())
            ),
        },
    };
}

/// Returns the reported cases of this version in the order of the table, and then cases of other versions.
fn rows(reports: &[Report]) -> Vec<(String, String, String)> {
    let mut rows: Vec<(String, String, String)> = Vec::new();
    let of = |case: &CaseReport| (case.id.clone(), case.clauses.join(" "), case.about.clone());
    let known = table();
    let all = || reports.iter().flat_map(|report| &report.cases);
    for case in &known {
        rows.extend(all().find(|ran| ran.id == case.id).map(of));
    }
    for case in all() {
        if rows.iter().all(|(id, ..)| *id != case.id) {
            rows.push(of(case));
        }
    }
    rows
}
