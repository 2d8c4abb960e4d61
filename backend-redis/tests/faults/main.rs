//! What happens to locks on real Redis servers when servers, connections and clients fail.
//!
//! One program, so that tests that mostly wait run beside each other.

mod blocked;
mod common;
mod crowd;
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
