//! Decorators of a backend that record its requests and inject faults.
//!
//! A [`Tap`] is between the core and a driver. Its [`Plan`] defines the faults of requests and messages,
//! and records them.

mod plan;
mod tap;

pub use plan::{Call, Fate, Op, Plan};
pub use tap::Tap;
