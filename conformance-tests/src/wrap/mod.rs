//! Decorators of a backend: they record what is asked of it and disturb it on the way.
//!
//! A [`Tap`] stands between the core and a driver. Its [`Plan`] says what happens to which
//! requests and messages, and keeps the record.

mod plan;
mod tap;

pub use plan::{Call, Fate, Op, Plan};
pub use tap::Tap;
