//! What has once broken a clause on this backend, or nearly: hostile and malformed state, state that
//! was deleted by hand, a distant server, forged messages, late requests.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic as tests may"
)]

#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "../faults/common.rs"]
mod common;

mod more;
mod slow;
mod state;
mod store;
