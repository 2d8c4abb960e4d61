//! The conformance suite of `tenure`: what every backend must pass.
//!
//! The author of a backend implements [`Harness`] and [`Env`], about twenty lines, and runs the
//! suite in one of two ways: [`main`] for a test target with `harness = false`, or
//! [`conformance_tests!`] for one `#[test]` per case. Both run the one table of [`cases`], each of
//! which names the clauses of the contract (`docs/contract.md`) that it proves.
//!
//! ```no_run
//! // tests/conformance.rs, with `harness = false` in Cargo.toml
//! use std::{process::ExitCode, sync::Arc};
//!
//! use tenure_conformance::{Env, Harness};
//! use tenure_core::{backend::Connect, error::Error, memory::MemoryStore};
//!
//! struct Mine;
//!
//! struct Fresh(MemoryStore);
//!
//! #[async_trait::async_trait]
//! impl Harness for Mine {
//!     fn name(&self) -> &str {
//!         "mine"
//!     }
//!
//!     async fn start(&self) -> Result<Arc<dyn Env>, Error> {
//!         Ok(Arc::new(Fresh(MemoryStore::new())))
//!     }
//! }
//!
//! impl Env for Fresh {
//!     fn connector(&self) -> Arc<dyn Connect> {
//!         Arc::new(self.0.clone())
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     tenure_conformance::main(Mine)
//! }
//! ```

mod case;
mod cases;
mod context;
mod driver;
pub mod fault;
mod harness;
pub mod history;
mod launcher;
mod libtest_runner;
mod macros;
mod outcome;
pub mod report;
mod runner;
pub mod servers;
mod stall_detector;
mod store;
mod table;
mod worker;
pub mod wrap;

pub use case::{Case, SUITE_VERSION};
pub use context::CaseContext;
pub use harness::{Env, Harness};
pub use libtest_runner::main;
pub use outcome::{Failure, Need, Outcome, Stop};
pub use runner::{Verdict, run_case, run_case_strictly};
pub use store::Store;
pub use table::{EXEMPT, cases, clauses};
pub use worker::serve_if_asked;

/// The functions that the output of macros calls. They are no part of the API.
#[doc(hidden)]
pub mod __private {
    pub use crate::macros::{serve, test};
}
