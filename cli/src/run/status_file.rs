//! The status file: the outcome of a run as one JSON object.

use std::{io, path::Path};

use serde::Serialize;
use tenure::name::{LockName, Namespace};

use crate::exit::{Failure, USAGE};

/// The outcome of a run. `docs/cli.md` documents the fields.
#[derive(Debug, Serialize)]
pub(super) struct StatusFile {
    schema: &'static str,
    name: String,
    namespace: String,
    pub(super) acquired: bool,
    pub(super) waited_ms: u64,
    pub(super) token: Option<u64>,
    pub(super) held_ms: u64,
    pub(super) outcome: Outcome,
    pub(super) child_code: Option<u8>,
    pub(super) child_signal: Option<i32>,
    pub(super) release: Option<&'static str>,
    pub(super) exit_code: u8,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// The lock was taken, or the wait timed out.
    Busy,
    /// The store could not be used.
    Error,
    /// The command exited.
    Exited,
    /// A signal arrived while the run waited.
    Interrupted,
    /// The lock was lost.
    Lost,
    /// The command could not be started.
    NotStarted,
    /// The command was to be stopped, and could not be.
    NotStopped,
    /// The command died of a signal.
    Signaled,
}

impl StatusFile {
    /// Returns the status of a run that has just started.
    pub(super) fn new(name: &LockName, namespace: &Namespace) -> Self {
        Self {
            schema: "tenure.run/1",
            name: name.as_str().to_owned(),
            namespace: namespace.as_str().to_owned(),
            acquired: false,
            waited_ms: 0,
            token: None,
            held_ms: 0,
            outcome: Outcome::Error,
            child_code: None,
            child_signal: None,
            release: None,
            exit_code: 0,
        }
    }

    /// Writes the file atomically: a reader finds the whole new content or the previous content.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        // Replace the target of a link, not the link. A device or a FIFO is written in place.
        let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if path.exists() && !path.is_file() {
            let mut device = std::fs::OpenOptions::new().write(true).open(path)?;
            return io::Write::write_all(&mut device, &text);
        }
        let mut file = tempfile::NamedTempFile::new_in(parent_dir(path))?;
        io::Write::write_all(&mut file, &text)?;
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(readable)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// Refuses at the start a file that could not be written at the end.
pub(super) fn check_writable(path: &Path) -> Result<(), Failure> {
    let refuse = |why: String| {
        let path = path.display().to_string();
        Failure::new(
            USAGE,
            format!("the status file {path:?} cannot be written: {why}"),
        )
    };
    if path.is_dir() {
        return Err(refuse("it is a directory".to_owned()));
    }
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if path.exists() && !path.is_file() {
        return Ok(());
    }
    tempfile::NamedTempFile::new_in(parent_dir(path)).map_err(|error| {
        // The message omits the name of the temporary file, which does not help the user.
        refuse(std::io::Error::from(error.kind()).to_string())
    })?;
    Ok(())
}

fn parent_dir(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
