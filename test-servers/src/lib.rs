//! Real servers for tests and examples. They use free ports of this machine and temporary directories,
//! and end with the process that started them.
//!
//! - [`redis`]: a single server, a group with sentinels, a cluster.
//! - [`etcd`], [`zookeeper`]: a single server, a cluster of three.
//! - [`Links`]: the connections between the members of a cluster, which a test can cut.
//! - [`wire`]: a proxy that records the requests of a client and injects network faults.
//!
//! A server ends when its value is dropped, and also when the process that started it is killed: a
//! watchdog holds the reading end of a pipe whose other end exists in that process only.
//!
//! All functions block their thread until the server answers; none needs a runtime. A server that cannot
//! start is an error, never a reason to skip a test.
//!
//! ```no_run
//! use tenure_test_servers::{redis::Server, wire::Proxy};
//!
//! # fn main() -> Result<(), tenure_test_servers::Error> {
//! let server = Server::builder().config("maxmemory-policy", "allkeys-lru").start()?;
//! let proxy = Proxy::start(server.address())?;
//! // After a client has connected to `proxy.url()`:
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
mod links;
mod managed_process;
mod poll;
mod ports;
mod process;
pub mod redis;
mod server;
pub mod wire;
pub mod zookeeper;

pub use certificates::Certificates;
pub use error::Error;
pub use links::Links;
pub use server::{Kind, Server};
