//! What happens to locks on real Redis servers when servers, connections and clients fail.
//!
//! One program, so that tests that mostly wait run beside each other.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic as tests may"
)]

mod blocked_server;
mod common;
mod failover;
mod interop;
mod late_requests;
mod lost_replies;
mod many_locks;
mod out_of_memory;
mod outage;
mod regressions;
mod residue;
mod round_trips;
mod slot_migration;
mod startup;
mod subscription;
