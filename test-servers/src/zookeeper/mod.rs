//! ZooKeeper: single servers, clusters of three.

mod builder;
mod member;
mod program;
mod server;

pub use builder::ServerBuilder;
pub use server::Server;

/// A running cluster of three, stopped when dropped.
pub type Cluster = crate::cluster::Cluster<Server>;
/// Settings of a cluster that is not started yet.
pub type ClusterBuilder = crate::cluster::ClusterBuilder<Server>;
