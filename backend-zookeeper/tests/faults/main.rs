//! Faults of the network and of the servers, with real servers: what a lock costs on the wire, lost
//! replies, servers that die, stop, come back, are reconfigured or send garbage, stopped owners,
//! changed rights, other programs on the same lock, and the messages for a user.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod cancelled_grants;
mod common;
mod contention;
mod downgrades;
mod ensemble;
mod foreign;
mod hostile;
mod idle;
mod interop;
mod late_enqueue;
mod lost;
mod marks;
mod messages;
mod modes;
mod proof;
mod providers;
mod reconfigured;
mod reconnection;
mod rights;
mod stopped;
mod wake;
mod wire;
