//! What happens to locks on real etcd servers when servers, connections and clients fail.
//!
//! One program, so that tests that mostly wait run beside each other.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic as tests may"
)]

mod common;
mod concurrent_removal;
mod contention;
mod interop;
mod late_enqueue;
mod lease_expiry;
mod lost_replies;
mod many_locks;
mod member_failures;
mod partition;
mod paused_leader;
mod round_trips;
