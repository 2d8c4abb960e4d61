//! Exit codes, and the line on stderr that accompanies each.

use std::process::ExitCode;

use tenure::{Error, ErrorKind, name::LockName};

use crate::{
    escape::{escape, quote},
    journal::Priority,
    stderr_writer,
};

/// Bad usage.
pub(crate) const USAGE: u8 = 64;
/// The store cannot be reached, cannot be used, or did not answer.
pub(crate) const UNAVAILABLE: u8 = 69;
/// Standard output or a file could not be written.
pub(crate) const IO: u8 = 74;
/// The reader of standard output has closed it: what a shell shows for a command that SIGPIPE ended.
pub(crate) const PIPE_CLOSED: u8 = 141;
/// The store refused access.
pub(crate) const REFUSED: u8 = 77;
/// Bad configuration.
pub(crate) const CONFIG: u8 = 78;

/// The command was to be stopped, and could not be.
pub(crate) const NOT_STOPPED: u8 = 80;

/// A failure that ends the program.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) code: u8,
    /// The message without `tenure: `; `None` prints no line.
    pub(crate) message: Option<String>,
    priority: Priority,
}

impl Failure {
    /// Creates a failure with a message.
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: Some(message.into()),
            priority: Priority::Error,
        }
    }

    /// Creates a failure whose message is a notice: the lock is taken.
    pub(crate) fn notice(code: u8, message: impl Into<String>) -> Self {
        Self {
            priority: Priority::Notice,
            ..Self::new(code, message)
        }
    }

    /// Creates a failure without a message.
    pub(crate) const fn silent(code: u8) -> Self {
        Self {
            code,
            message: None,
            priority: Priority::Error,
        }
    }

    /// Adds the lock's name to the message of an unavailable store or a refused access, unless the
    /// message already contains it.
    pub(crate) fn naming(mut self, lock: &LockName) -> Self {
        let shown = quote(lock.as_str());
        if let (UNAVAILABLE | REFUSED, Some(message)) = (self.code, &mut self.message)
            && !message.contains(&shown)
        {
            *message = format!("{shown}: {message}");
        }
        self
    }

    /// Prints the message and returns the code.
    pub(crate) fn report(self) -> ExitCode {
        if let Some(message) = self.message {
            print(self.priority, &message);
        }
        ExitCode::from(self.code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Config | ErrorKind::Unsupported => CONFIG,
            ErrorKind::InvalidName => USAGE,
            ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => REFUSED,
            _ => UNAVAILABLE,
        };
        Self::new(code, describe(&error))
    }
}

/// Formats an error with all its causes in one line.
pub(crate) fn describe(error: &Error) -> String {
    format!("{error:?}")
}

/// Writes one line about normal progress to stderr. An error is ignored, and the call never blocks.
pub(crate) fn print_message(message: &str) {
    print(Priority::Info, message);
}

/// Writes a line about something that may fail soon, or that changes no exit code.
pub(crate) fn print_warning(message: &str) {
    print(Priority::Warning, message);
}

/// Writes a line about a failure.
pub(crate) fn print_error(message: &str) {
    print(Priority::Error, message);
}

fn print(priority: Priority, message: &str) {
    let line = format!("{}tenure: {}\n", priority.prefix(), escape(message));
    stderr_writer::write(line.into_bytes());
}
