//! The move of one slot of a cluster between nodes, in steps between which a test can act.

use super::{
    Cluster, Server,
    admin::{self, items},
    cluster::node_id,
};
use crate::Error;

/// The time limit of one transfer of keys, in milliseconds.
const MIGRATE_MS: &str = "5000";

/// A move of one slot, created by [`Cluster::slot_move`]: [`begin`](Self::begin), any number of
/// [`migrate_keys`](Self::migrate_keys), [`finish`](Self::finish).
///
/// Dropping this value leaves the slot in its current state.
#[derive(Debug)]
pub struct SlotMove<'a> {
    cluster: &'a Cluster,
    slot: String,
    source: &'a Server,
    target: &'a Server,
    source_id: String,
    target_id: String,
}

impl<'a> SlotMove<'a> {
    pub(super) fn new(
        cluster: &'a Cluster,
        slot: u16,
        source: &'a Server,
        target: &'a Server,
    ) -> Result<Self, Error> {
        Ok(Self {
            cluster,
            slot: slot.to_string(),
            source,
            target,
            source_id: node_id(source)?,
            target_id: node_id(target)?,
        })
    }

    /// The current node of the slot.
    #[must_use]
    pub fn source(&self) -> &'a Server {
        self.source
    }

    /// The next node of the slot.
    #[must_use]
    pub fn target(&self) -> &'a Server {
        self.target
    }

    /// Marks the slot: from now on the source replies ASK for keys that it does not have.
    ///
    /// # Errors
    ///
    /// When one of the two nodes refuses.
    pub fn begin(&self) -> Result<(), Error> {
        let slot = &self.slot;
        self.target
            .command(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &self.source_id])?;
        self.source
            .command(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &self.target_id])?;
        Ok(())
    }

    /// Moves up to `count` keys of the slot, and returns the number of moved keys: zero when none is left.
    ///
    /// # Errors
    ///
    /// When a transfer fails, or before [`begin`](Self::begin).
    pub fn migrate_keys(&self, count: usize) -> Result<usize, Error> {
        let count = count.to_string();
        let found = self
            .source
            .command(&["CLUSTER", "GETKEYSINSLOT", &self.slot, &count])?;
        let keys = items(found);
        if keys.is_empty() {
            return Ok(0);
        }
        let port = self.target.port().to_string();
        let mut command: Vec<&[u8]> = vec![b"MIGRATE", b"127.0.0.1", port.as_bytes(), b"", b"0"];
        command.push(MIGRATE_MS.as_bytes());
        if self.target.with_users() {
            let user = [admin::USER, admin::PASSWORD].map(str::as_bytes);
            command.extend([b"AUTH2".as_slice(), user[0], user[1]]);
        }
        command.push(b"KEYS");
        command.extend(keys.iter().map(Vec::as_slice));
        self.source.command_of_bytes(&command)?;
        Ok(keys.len())
    }

    /// Assigns the slot to the target on all nodes.
    ///
    /// # Errors
    ///
    /// When the source still has keys of the slot (then nothing has changed), or a node refuses.
    pub fn finish(&self) -> Result<(), Error> {
        let left = self
            .source
            .text(&["CLUSTER", "COUNTKEYSINSLOT", &self.slot])?;
        if left != "0" {
            return Err(Error::new(format!(
                "cannot finish the move of slot {}: {left} keys of it are still on the node on \
                 port {}",
                self.slot,
                self.source.port()
            )));
        }
        let set = |node: &Server| {
            node.command(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &self.target_id])
        };
        // The new owner first: no client may be redirected to a node that does not serve the slot yet.
        set(self.target)?;
        set(self.source)?;
        let parties = [self.source.port(), self.target.port()];
        for node in self.cluster.masters() {
            if node.is_running() && !parties.contains(&node.port()) {
                set(node)?;
            }
        }
        Ok(())
    }

    /// Runs all steps.
    ///
    /// # Errors
    ///
    /// As each of the steps.
    pub fn complete(&self) -> Result<(), Error> {
        self.begin()?;
        while self.migrate_keys(100)? > 0 {}
        self.finish()
    }
}
