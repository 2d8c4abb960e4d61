//! The priority of a line on stderr, for the journal of systemd.

use std::sync::OnceLock;

/// How important a line is. The numbers are those of syslog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// The command could not do what it was asked for.
    Error,
    /// Something may fail soon.
    Warning,
    /// The lock is taken, which is normal and makes a difference.
    Notice,
    /// Normal progress.
    Info,
    /// Details.
    Debug,
}

impl Priority {
    /// Returns the text with which a line of this priority begins; empty if stderr is not connected
    /// to the journal.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            _ if !is_connected() => "",
            Self::Error => "<3>",
            Self::Warning => "<4>",
            Self::Notice => "<5>",
            Self::Info => "<6>",
            Self::Debug => "<7>",
        }
    }
}

impl From<&tracing::Level> for Priority {
    fn from(level: &tracing::Level) -> Self {
        match *level {
            tracing::Level::ERROR => Self::Error,
            tracing::Level::WARN => Self::Warning,
            tracing::Level::INFO => Self::Info,
            _ => Self::Debug,
        }
    }
}

/// Returns whether stderr is connected to the journal. A process inherits the variable also if its
/// stderr was redirected, so the variable names the file.
pub(crate) fn is_connected() -> bool {
    static CONNECTED: OnceLock<bool> = OnceLock::new();
    *CONNECTED.get_or_init(|| {
        let stderr = rustix::fs::fstat(rustix::stdio::stderr());
        match (std::env::var("JOURNAL_STREAM"), stderr) {
            (Ok(journal), Ok(stderr)) => journal == format!("{}:{}", stderr.st_dev, stderr.st_ino),
            _ => false,
        }
    })
}
