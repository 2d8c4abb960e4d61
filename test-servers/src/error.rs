//! The error of this crate.

use std::fmt;

/// A failed action on a server. If the server ended or did not answer, the last lines of its log follow.
#[derive(Debug)]
pub struct Error {
    what: String,
    log: Option<String>,
}

impl Error {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            log: None,
        }
    }

    /// Adds the end of a server's log.
    pub(crate) fn with_log(mut self, log: String) -> Self {
        self.log = Some(log);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(log) = &self.log {
            f.write_str("; the end of its log:")?;
            for line in log.lines() {
                write!(f, "\n    {line}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
