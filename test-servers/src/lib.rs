//! Real servers for tests and examples: started on free ports of this machine, in directories of
//! their own, broken on demand, and gone with the process that started them.
//!
//! - [`redis`]: a single server, a group watched by sentinels, a cluster.
//! - [`etcd`], [`zookeeper`]: a single server, a cluster of three.
//! - [`wire`]: a proxy that records what a client sends and injects faults of the network.
//!
//! A server ends when its value is dropped, and also when the process that started it is killed:
//! a watchdog holds the reading end of a pipe whose other end lives in that process alone.
//!
//! Everything here blocks its thread, for as long as a server takes to answer; nothing needs a
//! runtime. A server that cannot be started is an error, never a reason to skip a test.
//!
//! ```no_run
//! use tenure_test_servers::{redis::Server, wire::Proxy};
//!
//! # fn main() -> Result<(), tenure_test_servers::Error> {
//! let server = Server::builder().config("maxmemory-policy", "allkeys-lru").start()?;
//! let proxy = Proxy::start(server.address())?;
//! // A client is given `proxy.url()`, and then:
//! proxy.drop_reply_of_and_cut("EVALSHA");
//! server.kill();
//! server.restart()?;
//! assert_eq!(proxy.count("EVALSHA"), 1);
//! # Ok(())
//! # }
//! ```

mod certificates;
pub mod cluster;
mod error;
pub mod etcd;
mod http;
mod managed_process;
mod poll;
mod ports;
mod process;
pub mod redis;
pub mod wire;
pub mod zookeeper;

pub use certificates::Certificates;
pub use error::Error;
