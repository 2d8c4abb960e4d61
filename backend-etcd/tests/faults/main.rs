//! Locks on real etcd servers while servers, connections and clients fail.
//!
//! One binary, so that tests that mostly wait run in parallel.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test helpers may panic, as tests may"
)]

mod common;
mod concurrent_removal;
mod contention;
mod hand_over;
mod interop;
mod late_enqueue;
mod lease_expiry;
mod lost_replies;
mod many_locks;
mod member_failures;
mod modes;
mod modes_model;
mod modes_requests;
mod partition;
mod paused_leader;
mod round_trips;
mod silent_servers;
mod slow_network;
