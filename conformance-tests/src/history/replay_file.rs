//! Histories in files, so that a violation can be checked again.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Bounds, History, Violation, check};

/// A history and the bounds for its check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReplayFile {
    /// The version of the suite that wrote it.
    pub suite: u32,
    /// The bounds of the run.
    pub bounds: Bounds,
    /// The recorded events.
    pub history: History,
}

impl ReplayFile {
    /// Combines a history with its bounds.
    #[must_use]
    pub const fn new(history: History, bounds: Bounds) -> Self {
        Self {
            suite: crate::SUITE_VERSION,
            bounds,
            history,
        }
    }

    /// Writes the history as JSON to a file with the given name in a directory.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written.
    pub fn write(&self, directory: &Path, name: &str) -> io::Result<PathBuf> {
        let file = directory.join(format!("{name}.history.json"));
        std::fs::write(&file, serde_json::to_vec(self)?)?;
        Ok(file)
    }

    /// Reads a history from a file.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or contains no history.
    pub fn read(file: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(file)?)?)
    }

    /// Checks the history with [`check`].
    #[must_use]
    pub fn check(&self) -> Vec<Violation> {
        check(&self.history, &self.bounds)
    }
}
