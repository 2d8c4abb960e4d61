//! What goes wrong on the way and on the servers, with real servers: what a lock costs on the wire,
//! replies that are lost, servers that die, stop and come back or are set up otherwise, owners that
//! are stopped, rights that change, and other programs on the same lock.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;
mod crowd;
mod ensemble;
mod foreign;
mod idle;
mod interop;
mod late;
mod lost;
mod other;
mod proof;
mod rights;
mod stopped;
mod wake;
mod wire;
