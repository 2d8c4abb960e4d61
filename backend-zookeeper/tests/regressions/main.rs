//! Situations that once broke a clause on this backend, or nearly, and that take long to show: silent
//! servers, ten thousand locks, a stream of cancellations, and members that
//! are cut off from each other.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic as tests may"
)]

#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "../faults/common.rs"]
mod common;
#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "../faults/contention.rs"]
mod contention;

mod isolated_members;
mod many;
mod silent;
mod slow;
