//! What has once broken a clause on this backend, or nearly, and takes long to show: servers that
//! fall silent, very many locks, cancellations without end.
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
