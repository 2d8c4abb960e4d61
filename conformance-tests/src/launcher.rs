//! How a case starts this binary again as a worker.

use std::ffi::OsString;

/// The arguments with which this binary becomes a worker.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    pub(crate) arguments: Vec<OsString>,
}

impl Launcher {
    /// A binary whose `main` first checks for an order.
    pub(crate) const fn bare() -> Self {
        Self {
            arguments: Vec::new(),
        }
    }

    /// A binary that checks for an order if it is started with these arguments.
    pub(crate) const fn with(arguments: Vec<OsString>) -> Self {
        Self { arguments }
    }

    /// A binary of Rust's own test harness with a test of this name that checks for an order.
    pub(crate) fn test(name: &str) -> Self {
        let arguments = ["--exact", name, "--ignored", "--nocapture"];
        Self {
            arguments: arguments.map(OsString::from).to_vec(),
        }
    }
}
