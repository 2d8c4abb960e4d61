//! Real servers for tests and examples: started on free ports of this machine, in directories of
//! their own, broken on demand, and gone with the process that started them.
//!
//! - [`redis`]: a single server, a group watched by sentinels, a cluster.
//! - [`wire`]: a proxy that records what a client sends and injects faults of the network.
//!
//! A server ends when its value is dropped, and also when the process that started it is killed:
//! a watchdog holds the reading end of a pipe whose other end lives in that process alone.
//!
//! Everything here blocks its thread, for as long as a server takes to answer; nothing needs a
//! runtime. A server that cannot be started is an error, never a reason to skip a test.

mod error;
mod poll;
mod ports;
mod process;
pub mod redis;
pub mod wire;

pub use error::Error;
