//! What happens to locks on real etcd servers when servers, connections and clients fail.
//!
//! One program, so that tests that mostly wait run beside each other.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic as tests may"
)]

mod arena;
mod common;
mod crowd;
mod cut;
mod expiry;
mod ghost;
mod interop;
mod leader;
mod lost;
mod nodes;
mod twice;
mod wire;
