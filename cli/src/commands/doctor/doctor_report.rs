//! The report of `tenure doctor`, which shows each finding as soon as it is known.

use std::time::Duration;

use serde::Serialize;
use tenure::clock::Instant;

use crate::{
    args::Format,
    escape::{escape, quote},
    exit::Failure,
    output, time,
};

/// The result of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mark {
    Ok,
    Warning,
    Failed,
}

#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    mark: Mark,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_us: Option<u64>,
    text: String,
}

#[derive(Debug, Serialize)]
struct View<'a> {
    schema: &'static str,
    ok: bool,
    store: Option<&'a str>,
    namespace: Option<&'a str>,
    rows: &'a [Row],
}

/// The findings.
#[derive(Debug)]
pub(super) struct DoctorReport {
    format: Format,
    /// The store and the namespace, once the configuration is read.
    about: Option<(String, String)>,
    rows: Vec<Row>,
    /// The current step, and when it began.
    step: (&'static str, Instant),
}

impl DoctorReport {
    /// Creates an empty report.
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            about: None,
            rows: Vec::new(),
            step: ("configuration", time::now()),
        }
    }

    /// States what the report is about.
    pub(super) fn about(&mut self, store: &str, namespace: &str) -> Result<(), Failure> {
        self.about = Some((store.to_owned(), namespace.to_owned()));
        if self.format == Format::Text {
            let (store, namespace) = (escape(store), quote(namespace));
            output::write(format!("store {store}, namespace {namespace}\n"))?;
        }
        Ok(())
    }

    /// Adds a finding.
    pub(super) fn row(
        &mut self,
        what: &'static str,
        mark: Mark,
        text: &str,
    ) -> Result<(), Failure> {
        self.push(what, mark, None, text)
    }

    /// Begins a step.
    pub(super) fn begin(&mut self, step: &'static str) {
        self.step = (step, time::now());
    }

    /// Adds the current step as a success, and returns its duration.
    pub(super) fn done(&mut self, text: &str) -> Result<Duration, Failure> {
        let (step, begun) = self.step;
        let took = time::now().since(begun);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.push(step, Mark::Ok, Some(took_us), text)?;
        Ok(took)
    }

    /// Adds the current step as a failure. Returns the failure that ends the command.
    pub(super) fn failed(&mut self, failure: Failure) -> Failure {
        let text = failure.message.as_deref().unwrap_or_default();
        let pushed = self.push(self.step.0, Mark::Failed, None, text);
        pushed.err().unwrap_or(failure)
    }

    fn push(
        &mut self,
        what: &'static str,
        mark: Mark,
        took_us: Option<u64>,
        text: &str,
    ) -> Result<(), Failure> {
        let text = text.to_owned();
        if self.format == Format::Text {
            let sign = match mark {
                Mark::Ok => "ok",
                Mark::Warning => "warning",
                Mark::Failed => "FAILED",
            };
            let took = took_us.map_or_else(String::new, |us| {
                format!(" ({}.{} ms)", us / 1_000, us % 1_000 / 100)
            });
            output::write(format!("{sign:<8} {what:<14} {}{took}\n", escape(&text)))?;
        }
        self.rows.push(Row {
            what,
            mark,
            took_us,
            text,
        });
        Ok(())
    }

    /// Ends the report.
    pub(super) fn close(&self) -> Result<(), Failure> {
        if self.format == Format::Text {
            return Ok(());
        }
        output::write_json(&View {
            schema: "tenure.doctor/1",
            ok: self.rows.iter().all(|row| row.mark != Mark::Failed),
            store: self.about.as_ref().map(|(store, _)| &**store),
            namespace: self.about.as_ref().map(|(_, namespace)| &**namespace),
            rows: &self.rows,
        })
    }
}
