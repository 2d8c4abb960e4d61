//! The status file: the outcome of a run as one JSON object.

use std::{io, path::Path};

use serde::{Serialize, Serializer};
use tenure::name::{LockName, Namespace};

use super::atomic_file;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl Outcome {
    /// Every outcome.
    pub(super) const ALL: [Self; 8] = [
        Self::Busy,
        Self::Error,
        Self::Exited,
        Self::Interrupted,
        Self::Lost,
        Self::NotStarted,
        Self::NotStopped,
        Self::Signaled,
    ];

    /// Returns the name that the status file and the metrics file show.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Error => "error",
            Self::Exited => "exited",
            Self::Interrupted => "interrupted",
            Self::Lost => "lost",
            Self::NotStarted => "not_started",
            Self::NotStopped => "not_stopped",
            Self::Signaled => "signaled",
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
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

    /// Writes the file.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        atomic_file::write(path, &text)
    }
}
