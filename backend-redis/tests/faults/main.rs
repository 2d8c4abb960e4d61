//! What happens to locks on real Redis servers when servers, connections and clients fail.
//!
//! One program, so that tests that mostly wait run beside each other.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic as tests may"
)]

mod blocked;
mod common;
mod crowd;
mod failover;
mod full;
mod interop;
mod late;
mod lost;
mod moving;
mod outage;
mod residue;
mod start;
mod subscription;
mod wire;
