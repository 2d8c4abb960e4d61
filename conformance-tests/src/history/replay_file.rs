//! Histories in files, so that a violation can be looked at again.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Bounds, History, Violation, check};

/// A history with the bounds that it was held against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReplayFile {
    /// The version of the suite that wrote it.
    pub suite: u32,
    /// What the run allowed itself.
    pub bounds: Bounds,
    /// What happened.
    pub history: History,
}

impl ReplayFile {
    /// That history, held against those bounds.
    #[must_use]
    pub const fn new(history: History, bounds: Bounds) -> Self {
        Self {
            suite: crate::SUITE_VERSION,
            bounds,
            history,
        }
    }

    /// Writes it to a file of that name in a directory, as JSON.
    ///
    /// # Errors
    ///
    /// When that cannot be written.
    pub fn write(&self, directory: &Path, name: &str) -> io::Result<PathBuf> {
        let file = directory.join(format!("{name}.history.json"));
        std::fs::write(&file, serde_json::to_vec(self)?)?;
        Ok(file)
    }

    /// Reads it from a file.
    ///
    /// # Errors
    ///
    /// When that cannot be read, or is no saved history.
    pub fn read(file: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(file)?)?)
    }

    /// Checks it, as [`check`] does.
    #[must_use]
    pub fn check(&self) -> Vec<Violation> {
        check(&self.history, &self.bounds)
    }
}
