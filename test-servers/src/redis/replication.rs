//! The progress of replication.

use std::time::Duration;

use super::Server;
use crate::{
    Error,
    poll::{self, Condition},
};

/// The time limit for a replica to catch up on a busy machine.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

impl Server {
    /// Waits until this replica has all data that `master` has at the time of the call. (`WAIT` is not
    /// sufficient: it covers the writes of its own connection only.)
    ///
    /// # Errors
    ///
    /// When that is not so within 30 s, or one of the two does not answer.
    pub fn wait_until_in_step(&self, master: &Self) -> Result<(), Error> {
        // The offset of a master without a previous replica is zero. Then the initial copy, after which
        // the link is "up", contains all data.
        let wanted = master.offset("master_repl_offset")?;
        let what = format!("the replica on port {} is in step", self.port());
        poll::until(&what, SYNC_TIMEOUT, || {
            Condition::from_answer(self.link_status().and_then(|link| {
                let reached = self.offset("slave_repl_offset")?;
                if link == "up" && reached >= wanted {
                    return Ok(());
                }
                Err(Error::new(format!(
                    "its link is {link}, and it has {reached} of {wanted} bytes"
                )))
            }))
        })
    }

    /// Returns the status of a replica's link to its master.
    pub(super) fn link_status(&self) -> Result<String, Error> {
        let status = self.info("master_link_status")?;
        Ok(status.unwrap_or_else(|| "none".to_owned()))
    }

    fn offset(&self, field: &str) -> Result<u64, Error> {
        let offset = self.info(field)?;
        let offset = offset.and_then(|offset| offset.parse().ok());
        offset
            .ok_or_else(|| Error::new(format!("the server on port {} has no {field}", self.port())))
    }
}
