//! Reports of runs of the suite, and their output formats.
//!
//! A [`Suite`] runs the table of cases on a [`Harness`](crate::Harness) and returns a [`Report`].
//! [`write`](write()) formats reports as text, JSON, JUnit XML, Markdown or one HTML page ([`Form`]). JSON
//! reports can be read again ([`json::read`]), so that one page can show the reports of several backends.
//!
//! # The JSON format
//!
//! One object; later versions may add fields under the same `schema`.
//!
//! | field | value |
//! |---|---|
//! | `schema` | [`SCHEMA`] |
//! | `suite`, `version` | the versions of the suite and of the crate |
//! | `backend`, `scheme`, `endpoint`, `store_version` | the store, without secrets |
//! | `capabilities` | the declared capabilities (clause C1), or null if they are unknown |
//! | `machine` | `os`, `arch`, `cpus` |
//! | `started`, `duration_ms` | the start (RFC 3339, UTC) and the duration |
//! | `jobs`, `filter`, `strict` | the settings of the run |
//! | `cases` | a list of `id`, `clauses`, `needs`, `about`, `verdict` (`passed`, `failed`, `ignored`), `reason` (why the case did not pass, or null), `duration_ms` |
//! | `stress` | the stress run, or null: `history`, `violations`, `error` |
//! | `left` | the remaining items in the store, one line each |

mod environment;
pub mod html;
pub mod json;
pub mod junit;
pub mod markdown;
mod stress;
mod suite;
pub mod text;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use environment::{DeclaredCapabilities, Evidences, Machine, Ttls};
pub use stress::{Stress, stress};
pub(crate) use suite::JOBS;
pub use suite::{Progress, Suite};

/// Formats a duration in a suitable unit.
pub(crate) fn format_span(span: std::time::Duration) -> String {
    environment::format_millis(environment::millis(span))
}

/// The `schema` of the JSON format.
pub const SCHEMA: &str = "tenure.conformance/1";

/// The report of one run on one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// The version of the suite.
    pub suite: u32,
    /// The version of this crate.
    pub version: String,
    /// The name of the harness.
    pub backend: String,
    /// The scheme of the backend, if it is known.
    pub scheme: Option<String>,
    /// The address of the store, without secrets.
    pub endpoint: Option<String>,
    /// The version of the store, if the harness knows it.
    #[serde(default)]
    pub store_version: Option<String>,
    /// The declared capabilities.
    pub capabilities: Option<DeclaredCapabilities>,
    /// The machine of the run.
    pub machine: Machine,
    /// The start of the run: RFC 3339 in UTC.
    pub started: String,
    /// The duration in milliseconds.
    pub duration_ms: u64,
    /// The number of cases that ran at the same time.
    pub jobs: usize,
    /// The filter: the run contains only cases whose ids contain this text.
    pub filter: Option<String>,
    /// Whether unexpectedly ignored cases count as failed.
    pub strict: bool,
    /// The cases, in the order of the table.
    pub cases: Vec<CaseReport>,
    /// The stress run.
    #[serde(default)]
    pub stress: Option<Stress>,
    /// The remaining items in the store, one line each.
    #[serde(default)]
    pub left: Vec<String>,
}

/// The report of one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CaseReport {
    /// The id of the case.
    pub id: String,
    /// The clauses that the case proves.
    pub clauses: Vec<String>,
    /// The requirement on the environment.
    pub needs: Option<String>,
    /// The tested behaviour in one sentence.
    pub about: String,
    /// The verdict.
    pub verdict: Mark,
    /// Why the case failed or does not apply.
    pub reason: Option<String>,
    /// The duration in milliseconds.
    pub duration_ms: u64,
}

/// The verdict about a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mark {
    /// The case passed.
    Passed,
    /// The case does not apply.
    Ignored,
    /// The case failed.
    Failed,
}

impl Mark {
    /// Returns the verdict as a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Ignored => "ignored",
            Self::Failed => "failed",
        }
    }
}

impl Report {
    /// Returns the number of cases with this verdict.
    #[must_use]
    pub fn count(&self, mark: Mark) -> usize {
        self.cases
            .iter()
            .filter(|case| case.verdict == mark)
            .count()
    }

    /// Returns whether the run passed: no case failed, the stress run found no violation, and at least one
    /// case passed.
    #[must_use]
    pub fn has_passed(&self) -> bool {
        self.count(Mark::Failed) == 0
            && self.count(Mark::Passed) > 0
            && self.stress.as_ref().is_none_or(Stress::has_passed)
    }
}

/// A format of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Form {
    /// Text for terminals.
    Text,
    /// JSON, which can be read again.
    Json,
    /// JUnit XML for continuous integration.
    JUnit,
    /// One self-contained HTML page.
    Html,
    /// The matrix of cases and backends in Markdown.
    Markdown,
}

impl Form {
    /// Returns the format for the extension of a file; `None` if there is no such format.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match ending.as_str() {
            "txt" => Self::Text,
            "json" => Self::Json,
            "xml" => Self::JUnit,
            "html" | "htm" => Self::Html,
            "md" => Self::Markdown,
            _ => return None,
        })
    }
}

/// Formats reports. In JSON, each report is an object on its own line.
#[must_use]
pub fn write(form: Form, reports: &[Report]) -> String {
    match form {
        Form::Text => reports.iter().map(text::write).collect(),
        Form::Json => reports.iter().map(json::write).collect(),
        Form::JUnit => junit::write(reports),
        Form::Html => html::write(reports),
        Form::Markdown => markdown::write(reports),
    }
}
