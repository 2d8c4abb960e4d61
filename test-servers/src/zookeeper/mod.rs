//! ZooKeeper: single servers, clusters of three.

mod builder;
mod locate;
mod member;
mod server;

pub use builder::ServerBuilder;
pub use server::Server;

use std::{thread, time::Duration};

use crate::Error;

/// A running cluster of three, stopped when dropped.
pub type Cluster = crate::cluster::Cluster<Server>;
/// Settings of a cluster that is not started yet.
pub type ClusterBuilder = crate::cluster::ClusterBuilder<Server>;

impl Cluster {
    /// Whether the leader carries nothing out for that long though it was asked to. Blocks.
    ///
    /// Version 3.8.0 comes to that when all three have stood still for longer than `syncLimit` and
    /// the followers come back before the leader has missed them: what it had proposed to them is
    /// then acknowledged by nobody, and everything else waits behind it. It answers reads, is
    /// healthy by its own account, and stays so until it is restarted.
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
