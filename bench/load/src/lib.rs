//! Work loads that measure a lock: taken alone, wanted by many, and many locks at once.
//!
//! Whoever is measured is a [`Contender`]; [`Locks`] is one by the public way of `tenure`. What comes
//! out are [`Spread`]s of durations and rates, which say nothing of how they are shown.

mod alone;
mod contender;
mod many;
mod one;
mod spread;

pub use alone::alone;
pub use contender::{Contender, Failure, Locks};
pub use many::many;
pub use one::{Fight, each, one};
pub use spread::{Micros, Spread};

use tenure_core::clock::{Clock, Instant, SystemClock};

fn now() -> Instant {
    SystemClock.now()
}
