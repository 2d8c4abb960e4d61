//! What has once broken a clause on this backend, or nearly: servers that are set up otherwise,
//! servers that fall silent, rights that change, very many locks, cancellations without end.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic as tests may"
)]

#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "../faults/common.rs"]
mod common;

mod idle;
mod many;
mod other;
mod rights;
mod silent;
mod wake;
mod wire;
