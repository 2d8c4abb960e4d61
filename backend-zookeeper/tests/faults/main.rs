//! Faults of the network and of the servers, with real servers: what a lock costs on the wire, lost
//! replies, servers that die, stop, come back, are configured otherwise or send garbage, stopped owners,
//! changed rights, other programs on the same lock, and the messages for a user.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;
mod crowd;
mod delayed_link;
mod ensemble;
mod foreign;
mod hostile;
mod idle;
mod interop;
mod late;
mod lost;
mod messages;
mod other;
mod proof;
mod providers;
mod reconnection;
mod rights;
mod stopped;
mod wake;
mod wire;
