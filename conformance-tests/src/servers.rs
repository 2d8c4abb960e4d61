//! Servers that the suite can stop, and whose leader it can replace.
//!
//! A harness that can start a store for one case gives the suite its servers
//! ([`Env::dedicated_store`](crate::Env::dedicated_store)); the cases of the group `servers` then
//! apply, as far as the servers [support](Servers::supports) their actions.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tenure_core::{backend::Connect, error::Error};

/// An action on the servers of a store. The first four apply to all servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerAction {
    /// Kill the servers, as `kill -9` does.
    Kill,
    /// Start the ended servers again at the same addresses, with their stored data. The action is complete
    /// when all servers serve.
    Start,
    /// Stop the servers, as `kill -STOP` does: connections stay open, and requests get no reply.
    Pause,
    /// Continue the stopped servers.
    Resume,
    /// Kill the server that leads the others. The action is complete when another server leads, and the store
    /// serves again.
    FailOver,
    /// Cut the server that leads off from the other servers, in both directions. The server continues to run,
    /// and clients keep their connections to all servers. The action is complete when another server leads.
    Partition,
    /// End the partition. The action is complete when all servers serve.
    Heal,
}

/// The servers of a store. They end when this value is dropped.
#[async_trait]
pub trait Servers: Send + Sync + 'static {
    /// Applies a supported action.
    ///
    /// # Errors
    ///
    /// An error of the action; the case fails with this error.
    async fn apply(&self, action: ServerAction) -> Result<(), Error>;

    /// Returns whether these servers support the action. By default they support those that need one server
    /// only: all except [`FailOver`](ServerAction::FailOver), [`Partition`](ServerAction::Partition) and
    /// [`Heal`](ServerAction::Heal). A case whose actions are not all supported does not apply.
    fn supports(&self, action: ServerAction) -> bool {
        use ServerAction::{Kill, Pause, Resume, Start};
        matches!(action, Kill | Start | Pause | Resume)
    }
}

/// A store for one case only.
#[derive(Clone)]
pub struct DedicatedStore {
    connector: Arc<dyn Connect>,
    servers: Arc<dyn Servers>,
}

impl DedicatedStore {
    /// Creates the store from its connector and its servers.
    #[must_use]
    pub fn new(connector: Arc<dyn Connect>, servers: impl Servers) -> Self {
        let servers = Arc::new(servers);
        Self { connector, servers }
    }

    /// Returns the connector to the store.
    #[must_use]
    pub fn connector(&self) -> Arc<dyn Connect> {
        Arc::clone(&self.connector)
    }

    /// Returns the servers of the store.
    #[must_use]
    pub fn servers(&self) -> &dyn Servers {
        &*self.servers
    }
}

impl fmt::Debug for DedicatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DedicatedStore")
            .field("connector", &self.connector)
            .finish_non_exhaustive()
    }
}
