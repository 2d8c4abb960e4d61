//! Redis: single servers, groups with sentinels, clusters.

mod admin;
mod builder;
mod clock;
mod cluster;
mod replication;
mod sentinel;
mod server;
mod slots;

pub use crate::Certificates;
pub use builder::ServerBuilder;
pub use cluster::{Cluster, ClusterBuilder};
pub use redis::Value;
pub use sentinel::{Sentinel, SentinelBuilder};
pub use server::Server;
pub use slots::SlotMove;
