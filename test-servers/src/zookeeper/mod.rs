//! ZooKeeper: single servers, clusters of three.

mod builder;
mod locate;
mod server;

pub use builder::ServerBuilder;
pub use server::Server;

use std::{thread, time::Duration};

use crate::Error;

/// A running cluster of three, stopped when dropped.
pub type Cluster = crate::cluster::Cluster<ServerBuilder>;
/// Settings of a cluster that is not started yet.
pub type ClusterBuilder = crate::cluster::ClusterBuilder<ServerBuilder>;

impl Cluster {
    /// Returns whether the leader executes no transaction during `span` although requests are outstanding.
    /// Blocks.
    ///
    /// Version 3.8.0 can reach this state when all three servers were stopped for longer than `syncLimit`
    /// and the followers continue before the leader has noticed their absence: no follower acknowledges the
    /// earlier proposals, and all later requests wait for them. The leader answers reads and reports to be
    /// healthy until it is restarted.
    ///
    /// # Errors
    ///
    /// When there is no leader, or it does not answer.
    pub fn stands_still(&self, span: Duration) -> Result<bool, Error> {
        let leader = self.server(self.leader()?);
        let (before, _) = leader.progress()?;
        thread::sleep(span);
        let (now, outstanding) = leader.progress()?;
        Ok(now == before && outstanding > 0)
    }
}
