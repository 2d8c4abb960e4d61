//! The error of this crate: what could not be done to which server, and what its log says.

use std::fmt;

/// What could not be done, on which server, and why. If a server ended or stayed silent, the end
/// of its log follows on lines of their own.
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
