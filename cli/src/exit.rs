//! Exit codes, and the one line on stderr that goes with each.

use std::{fmt::Write as _, process::ExitCode};

use tenure::{Error, ErrorKind, name::LockName};

use crate::{
    escape::{escape, quote},
    stderr_writer,
};

/// Bad usage.
pub(crate) const USAGE: u8 = 64;
/// The store cannot be reached, cannot be used, or did not answer.
pub(crate) const UNAVAILABLE: u8 = 69;
/// Standard output or a file could not be written.
pub(crate) const IO: u8 = 74;
/// Access refused.
pub(crate) const REFUSED: u8 = 77;
/// Bad configuration.
pub(crate) const CONFIG: u8 = 78;

/// Why the program ends other than as it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) code: u8,
    /// The line, without `tenure: `; none if everything was said.
    pub(crate) message: Option<String>,
}

impl Failure {
    /// That code with that line.
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        let message = Some(message.into());
        Self { code, message }
    }

    /// That code without a word.
    pub(crate) const fn silent(code: u8) -> Self {
        let message = None;
        Self { code, message }
    }

    /// Names the lock that was asked for, where the store could not be used and the line does not name
    /// it.
    pub(crate) fn about(mut self, lock: &LockName) -> Self {
        let shown = quote(lock.as_str());
        if let (UNAVAILABLE | REFUSED, Some(message)) = (self.code, &mut self.message)
            && !message.contains(&shown)
        {
            *message = format!("{shown}: {message}");
        }
        self
    }

    /// Says it, and gives the code.
    pub(crate) fn report(self) -> ExitCode {
        if let Some(message) = self.message {
            print_message(&message);
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

/// An error with all its causes, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let shown = error.to_string();
        // Some libraries repeat the cause in the text of what it caused.
        if !text.contains(&shown) {
            let _ = write!(text, ": {shown}");
        }
        cause = error.source();
    }
    text
}

/// Writes one line to stderr. That it cannot be written is no reason to stop, or to wait.
pub(crate) fn print_message(message: &str) {
    let line = format!("tenure: {}\n", escape(message));
    stderr_writer::write(line.into_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let inner = std::io::Error::other("disk on fire");
        let error = Error::new(ErrorKind::Unavailable, "acquiring").with_source(inner);
        assert_eq!(
            describe(&error),
            "acquiring: store unavailable: disk on fire"
        );
    }
}
