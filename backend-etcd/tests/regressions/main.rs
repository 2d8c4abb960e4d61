//! What has once broken a clause on this backend, or nearly: keys that somebody else wrote over, distant
//! servers, log-ins that end, futures that are dropped anywhere, crowds.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic as tests may"
)]

#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "../faults/common.rs"]
mod common;

mod altered_keys;
mod authentication;
mod dropped_futures;
mod many_watches;
mod retired_lease;
mod slow_network;
