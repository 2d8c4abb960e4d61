//! The reports of the suite and their output formats.
#![expect(clippy::unwrap_used, reason = "a test")]

mod browser;
mod forms;
mod page;
mod runs;
mod sample;
mod user_store;
