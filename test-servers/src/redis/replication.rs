//! How far a replica has come.

use std::time::Duration;

use super::Server;
use crate::{
    Error,
    poll::{self, Condition},
};

/// How long a replica may take to catch up on a busy machine.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

impl Server {
    /// Waits until this replica has all that `master` has at the moment of the call. (`WAIT` would
    /// not do: it asks only about writes of its own connection.)
    ///
    /// # Errors
    ///
    /// When that is not so within 30 s, or one of the two does not answer.
    pub fn wait_until_in_step(&self, master: &Self) -> Result<(), Error> {
        // A master that never had a replica counts nothing yet; then the first copy, which makes
        // the link "up", has everything.
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

    /// What a replica says of its link to its master.
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
