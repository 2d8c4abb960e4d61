//! Writes results as text or JSON to stdout, which may be closed.

use std::io::{ErrorKind, Write};

use serde::Serialize;

use crate::exit::{Failure, IO, PIPE_CLOSED};

/// Writes the whole text, or returns a failure.
pub(crate) fn write(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_ref())
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            // As `head` closes it: not a failure that somebody has to read of.
            ErrorKind::BrokenPipe => Failure::silent(PIPE_CLOSED),
            _ => Failure::new(IO, format!("writing to standard output: {error}")),
        })
}

/// Writes text that is not an error line, such as a help text, to stderr, which may be closed.
pub(crate) fn write_error(text: &str) {
    crate::stderr_writer::write(text.as_bytes().to_vec());
}

/// Writes one JSON object on a separate line.
pub(crate) fn write_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(value)
        .map_err(|error| Failure::new(IO, format!("writing JSON: {error}")))?;
    line.push(b'\n');
    write(line)
}
