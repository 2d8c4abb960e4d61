//! The wall clock of a server, which a test can step.
//!
//! A library that is loaded into the server adds an offset to each reading of the wall clock. The compiler
//! that links Rust programs on this machine compiles it.

use std::{fs::OpenOptions, os::unix::fs::FileExt, path::Path, process::Command};

use super::Server;
use crate::{Error, managed_process::ManagedProcess};

const SOURCE: &str = include_str!("clock.c");
const SOURCE_FILE: &str = "clock.c";
const LIBRARY: &str = "clock.so";
const OFFSET_FILE: &str = "clock-offset";

/// Compiles the library in the server's directory. The offset is zero.
pub(super) fn write_files(process: &ManagedProcess) -> Result<(), Error> {
    process.write(SOURCE_FILE, SOURCE)?;
    process.write(OFFSET_FILE, "\0\0\0\0\0\0\0\0")?;
    let compiled = Command::new("cc")
        .current_dir(process.directory())
        .args(["-O2", "-shared", "-fPIC", "-o", LIBRARY, SOURCE_FILE])
        .output()
        .map_err(|error| process.failed(format!("cannot start cc: {error}")))?;
    if compiled.status.success() {
        return Ok(());
    }
    let messages = String::from_utf8_lossy(&compiled.stderr);
    Err(process.failed(format!("cc cannot compile {SOURCE_FILE}: {messages}")))
}

/// The variables that load the library.
pub(super) fn environment(directory: &Path) -> Vec<(&'static str, String)> {
    let within = |name: &str| directory.join(name).display().to_string();
    vec![
        ("LD_PRELOAD", within(LIBRARY)),
        ("CLOCK_OFFSET_FILE", within(OFFSET_FILE)),
    ]
}

impl Server {
    /// Steps the server's wall clock: from now on it shows this many seconds more than the machine's, or less
    /// if the number is negative.
    ///
    /// # Errors
    ///
    /// When the server was started without
    /// [`ServerBuilder::steppable_clock`](super::ServerBuilder::steppable_clock).
    pub fn set_clock_offset(&self, seconds: i64) -> Result<(), Error> {
        // The file keeps its size, because the server has mapped it.
        OpenOptions::new()
            .write(true)
            .open(self.directory().join(OFFSET_FILE))
            .and_then(|file| file.write_all_at(&seconds.to_ne_bytes(), 0))
            .map_err(|error| {
                self.process
                    .failed(format!("cannot step its clock: {error}"))
            })
    }
}
