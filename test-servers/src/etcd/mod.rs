//! etcd: single servers, clusters of three.

mod admin;
mod builder;
mod cluster;
mod server;

pub use builder::ServerBuilder;
pub use cluster::{Cluster, ClusterBuilder};
pub use server::Server;
