//! The JSON format.

use super::{Report, SCHEMA};

/// Formats the report as one object on a line.
#[must_use]
pub fn write(report: &Report) -> String {
    // Serialization of a report cannot fail: all keys are strings and all numbers are finite.
    serde_json::to_string(report).map_or_else(|error| error.to_string(), |text| text + "\n")
}

/// Reads the output of [`write()`]: one report on each line, or one report on several lines.
///
/// # Errors
///
/// Returns the reason if the text contains no valid reports.
pub fn read(text: &str) -> Result<Vec<Report>, String> {
    let mut reports = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>() {
        let value = value.map_err(|error| format!("invalid JSON: {error}"))?;
        match value.get("schema").and_then(serde_json::Value::as_str) {
            Some(SCHEMA) => {}
            Some(other) => return Err(format!("the schema is {other:?}, not {SCHEMA:?}")),
            None => return Err(format!("no `schema`; a report has {SCHEMA:?}")),
        }
        let report = serde_json::from_value(value);
        reports.push(report.map_err(|error| format!("invalid report: {error}"))?);
    }
    if reports.is_empty() {
        return Err("no report found".to_owned());
    }
    Ok(reports)
}
