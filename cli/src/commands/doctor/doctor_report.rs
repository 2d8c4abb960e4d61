//! The report of `tenure doctor`, which shows each finding as soon as it is known.

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
    store: &'a str,
    namespace: &'a str,
    rows: &'a [Row],
}

/// The findings.
#[derive(Debug)]
pub(super) struct DoctorReport {
    format: Format,
    store: String,
    namespace: String,
    rows: Vec<Row>,
}

impl DoctorReport {
    /// Creates an empty report about a store.
    pub(super) fn new(format: Format, store: &str, namespace: &str) -> Result<Self, Failure> {
        if format == Format::Text {
            let (store, namespace) = (escape(store), quote(namespace));
            output::write(format!("store {store}, namespace {namespace}\n"))?;
        }
        Ok(Self {
            format,
            store: store.to_owned(),
            namespace: namespace.to_owned(),
            rows: Vec::new(),
        })
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

    /// Adds a successful step and its duration.
    pub(super) fn timed(
        &mut self,
        what: &'static str,
        begin: Instant,
        text: &str,
    ) -> Result<(), Failure> {
        let took = time::now().since(begin).as_micros();
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        self.push(what, Mark::Ok, Some(took), text)
    }

    /// Adds a failed step and returns the failure for the end of the command.
    pub(super) fn failed(
        &mut self,
        what: &'static str,
        failure: Failure,
    ) -> Result<Failure, Failure> {
        let text = failure.message.clone().unwrap_or_default();
        self.push(what, Mark::Failed, None, &text)?;
        Ok(failure)
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
            store: &self.store,
            namespace: &self.namespace,
            rows: &self.rows,
        })
    }
}
