//! What came of a run of the suite, as a value, and the forms in which it is written.
//!
//! A [`Suite`] runs the table of cases on a [`Harness`](crate::Harness) and returns a [`Report`].
//! [`write`](write()) and [`Form`] turn reports into text, JSON, JUnit XML or one page of HTML. The JSON
//! form can be read back ([`json::read`]), so that the reports of several backends become one page.
//!
//! # The JSON form
//!
//! One object; fields may be added under the same `schema`.
//!
//! | field | value |
//! |---|---|
//! | `schema` | [`SCHEMA`] |
//! | `suite`, `version` | the version of the suite, and of the crate |
//! | `backend`, `scheme`, `endpoint`, `store_version` | what the suite ran on; nothing secret |
//! | `capabilities` | what the backend declares (clause C1), or null if it could not be asked |
//! | `machine` | `os`, `arch`, `cpus` |
//! | `started`, `duration_ms` | when it began (RFC 3339, UTC), how long it took |
//! | `jobs`, `filter`, `strict` | how it was run |
//! | `cases` | a list of `id`, `clauses`, `needs`, `about`, `verdict` (`passed`, `failed`, `ignored`), `reason` (why it did not pass, or null), `duration_ms` |
//! | `stress` | what workers saw who fought over a few locks, or null: `history`, `violations`, `error` |
//! | `left` | what stays behind in the store, a line each |

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

/// A span as people write it.
pub(crate) fn shown_span(span: std::time::Duration) -> String {
    environment::format_millis(environment::millis(span))
}

/// The `schema` of the JSON form.
pub const SCHEMA: &str = "tenure.conformance/1";

/// What came of one run on one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// The version of the suite.
    pub suite: u32,
    /// The version of this crate.
    pub version: String,
    /// What the harness calls the backend.
    pub backend: String,
    /// The backend's one word, if it could be asked.
    pub scheme: Option<String>,
    /// Which store it is. Nothing secret.
    pub endpoint: Option<String>,
    /// The version of the store, where the harness knows it.
    #[serde(default)]
    pub store_version: Option<String>,
    /// What the backend declares.
    pub capabilities: Option<DeclaredCapabilities>,
    /// Where it ran.
    pub machine: Machine,
    /// When it began: RFC 3339 in UTC.
    pub started: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How many cases ran at the same time.
    pub jobs: usize,
    /// Only cases whose ids contain this were run.
    pub filter: Option<String>,
    /// Whether cases that were ignored unexpectedly count as failed.
    pub strict: bool,
    /// What came of each case, in the order of the table.
    pub cases: Vec<CaseReport>,
    /// What workers saw who fought over a few locks.
    #[serde(default)]
    pub stress: Option<Stress>,
    /// What stays behind in the store, a line each.
    #[serde(default)]
    pub left: Vec<String>,
}

/// What came of one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CaseReport {
    /// Which case.
    pub id: String,
    /// The clauses that it proves.
    pub clauses: Vec<String>,
    /// What it needs of the environment.
    pub needs: Option<String>,
    /// What it shows, in one sentence.
    pub about: String,
    /// What came of it.
    pub verdict: Mark,
    /// Why it failed, or does not apply.
    pub reason: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// What came of a case, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mark {
    /// It passed.
    Passed,
    /// It does not apply.
    Ignored,
    /// It failed.
    Failed,
}

impl Mark {
    /// The word.
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
    /// How many cases ended so.
    #[must_use]
    pub fn count(&self, mark: Mark) -> usize {
        self.cases
            .iter()
            .filter(|case| case.verdict == mark)
            .count()
    }

    /// Whether it shows that the backend keeps the contract, as far as the cases that were run go:
    /// none failed, the stress run accuses nobody, and at least one case passed.
    #[must_use]
    pub fn has_passed(&self) -> bool {
        self.count(Mark::Failed) == 0
            && self.count(Mark::Passed) > 0
            && self.stress.as_ref().is_none_or(Stress::has_passed)
    }
}

/// A form in which reports are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Form {
    /// For people, in a terminal.
    Text,
    /// For programs; it can be read back.
    Json,
    /// For servers of continuous integration.
    JUnit,
    /// One page for people, with all that it needs in itself.
    Html,
    /// The matrix of cases and backends, for documentation.
    Markdown,
}

impl Form {
    /// The form that the ending of a file's name says; `None` if it says none.
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

/// Reports in a form. Of several reports the JSON form is one object on a line for each.
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
