//! Situations that once broke a clause on this backend, or nearly, and that take long to show: silent
//! servers, ten thousand locks, and a stream of cancellations.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic as tests may"
)]

#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "../faults/common.rs"]
mod common;

mod many;
mod silent;
mod slow;
