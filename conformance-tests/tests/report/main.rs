//! The reports of the suite: how they are made, and every form in which they are written.
#![expect(clippy::unwrap_used, reason = "a test")]

mod browser;
mod forms;
mod page;
mod runs;
mod sample;
mod user_store;
