//! Servers that the suite can stop.
//!
//! A harness that can start a store for one case gives the suite its servers
//! ([`Env::dedicated_store`](crate::Env::dedicated_store)); the cases of the group `servers` then
//! apply.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tenure_core::{backend::Connect, error::Error};

/// An action on all servers of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerAction {
    /// Kill the servers, as `kill -9` does.
    Kill,
    /// Start the servers again at the same addresses, with their stored data. The action is complete when
    /// they serve.
    Start,
    /// Stop the servers, as `kill -STOP` does: connections stay open, and requests get no reply.
    Pause,
    /// Continue the stopped servers.
    Resume,
}

/// The servers of a store. They end when this value is dropped.
#[async_trait]
pub trait Servers: Send + Sync + 'static {
    /// Applies the action to all servers.
    ///
    /// # Errors
    ///
    /// An error of the action; the case fails with this error.
    async fn apply(&self, action: ServerAction) -> Result<(), Error>;
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
