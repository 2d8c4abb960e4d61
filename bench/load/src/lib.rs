//! Work loads that measure a lock: without contention, with contention, and many independent locks.
//!
//! The code to measure implements [`Implementation`]; [`TenureLocks`] does so with the public API of
//! `tenure`. The results are [`Percentiles`] of durations, and rates.

mod contended;
mod implementation;
mod independent;
mod percentiles;
mod uncontended;

pub use contended::{Contention, contended, contended_by_one_client};
pub use implementation::{Failure, Implementation, LockOf, TenureLocks};
pub use independent::{independent, independent_lock};
pub use percentiles::{Micros, Percentiles};
use tenure_core::clock::{Clock, Instant, SystemClock};
pub use uncontended::uncontended;

fn now() -> Instant {
    SystemClock.now()
}
