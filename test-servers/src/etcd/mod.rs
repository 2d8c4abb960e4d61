//! etcd: single servers, clusters of three.

mod admin;
mod builder;
mod server;

pub use builder::ServerBuilder;
pub use server::Server;

/// A running cluster of three, stopped when dropped.
pub type Cluster = crate::cluster::Cluster<ServerBuilder>;
/// Settings of a cluster that is not started yet.
pub type ClusterBuilder = crate::cluster::ClusterBuilder<ServerBuilder>;
