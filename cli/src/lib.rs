//! The command `tenure` as a library function that takes a registry.
//!
//! The author of a plugin ships a command for their store in five lines:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     let mut registry = tenure::default_registry();
//!     // registry.register(std::sync::Arc::new(MyFactory))?;
//!     tenure_cli::run(std::env::args_os(), &registry)
//! }
//! ```

mod args;
mod clap_error;
mod commands;
mod escape;
mod exit;
mod guardian;
mod journal;
mod log;
mod output;
mod process_group;
mod run;
mod setup;
mod signals;
mod stderr_writer;
mod time;
mod view;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;
use tenure::Registry;

/// Runs the command. The first argument is the program's name.
///
/// Call this function before anything else, and before the program starts a thread: `tenure run`
/// starts the same program a second time as the guardian of its command. In the guardian this
/// function returns only after the command has ended.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>, registry: &Registry) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    if let Some(code) = guardian::run_if_requested(&arguments) {
        return code;
    }
    let outcome = match args::Cli::try_parse_from(&arguments) {
        Ok(cli) => commands::run(cli, registry),
        Err(error) => clap_error::report(&error, &arguments),
    };
    let code = outcome.unwrap_or_else(exit::Failure::report);
    stderr_writer::flush();
    code
}
