//! Redis: single servers, groups watched by sentinels, clusters.

mod admin;
mod builder;
mod certificates;
mod cluster;
mod replication;
mod sentinel;
mod server;
mod slots;

pub use builder::ServerBuilder;
pub use certificates::Certificates;
pub use cluster::{Cluster, ClusterBuilder};
pub use redis::Value;
pub use sentinel::{Sentinel, SentinelBuilder};
pub use server::Server;
pub use slots::SlotMove;
