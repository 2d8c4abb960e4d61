//! Cases that once broke a clause on this backend, or nearly did: overwritten keys, slow networks,
//! expired authentication tokens, dropped futures, thousands of locks and waiters, members
//! that are cut off from each other.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test helpers may panic, as tests may"
)]

#[expect(dead_code, reason = "the other test binary uses more of it")]
#[path = "../faults/common.rs"]
mod common;
#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "../faults/contention.rs"]
mod contention;

mod altered_keys;
mod authentication;
mod dropped_futures;
mod isolated_members;
mod many_watches;
mod retired_lease;
mod slow_network;
