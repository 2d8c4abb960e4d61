//! The JSON form: written, and read back.

use super::{Report, SCHEMA};

/// One object on a line.
#[must_use]
pub fn write(report: &Report) -> String {
    // Nothing in it can fail to be written: no map with keys that are no text, no number that is none.
    serde_json::to_string(report).map_or_else(|error| error.to_string(), |text| text + "\n")
}

/// Reads what [`write()`] wrote: one report on each line, or one over several lines.
///
/// # Errors
///
/// What is wrong with the text, in one line.
pub fn read(text: &str) -> Result<Vec<Report>, String> {
    let mut reports = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>() {
        let value = value.map_err(|error| format!("it is no JSON: {error}"))?;
        match value.get("schema").and_then(serde_json::Value::as_str) {
            Some(SCHEMA) => {}
            Some(other) => return Err(format!("its schema is {other:?} and not {SCHEMA:?}")),
            None => return Err(format!("it has no `schema`; a report has {SCHEMA:?}")),
        }
        let report = serde_json::from_value(value);
        reports.push(report.map_err(|error| format!("it is no report: {error}"))?);
    }
    if reports.is_empty() {
        return Err("there is no report in it".to_owned());
    }
    Ok(reports)
}
