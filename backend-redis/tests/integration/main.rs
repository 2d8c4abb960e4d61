//! Locks on real Redis servers when servers, connections and clients fail.
//!
//! All tests are in one binary, so that tests that mostly wait run concurrently.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test helpers may panic as tests may"
)]

mod blocked_server;
mod common;
mod failover;
mod interop;
mod joint_state;
mod late_requests;
mod lost_replies;
mod many_locks;
mod modes;
mod out_of_memory;
mod outage;
mod regressions;
mod residue;
mod round_trips;
mod silent_node;
mod slot_migration;
mod startup;
mod subscription;
