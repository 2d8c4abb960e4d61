//! Servers that the suite can stop.
//!
//! A harness that can start a store of a case's own gives the suite its servers
//! ([`Env::dedicated_store`](crate::Env::dedicated_store)); the cases of the group `servers` then apply.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tenure_core::{backend::Connect, error::Error};

/// What is done to all servers of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerAction {
    /// They are killed, as by `kill -9`.
    Kill,
    /// They are started again at the same addresses, with what they have kept. Done when they serve.
    Start,
    /// They are stopped, as by `kill -STOP`: connections stay open, and nothing is answered.
    Pause,
    /// They go on.
    Resume,
}

/// The servers of a store. They end when this is dropped.
#[async_trait]
pub trait Servers: Send + Sync + 'static {
    /// Does that to all of them.
    ///
    /// # Errors
    ///
    /// Whatever kept it from happening; the case fails with it.
    async fn apply(&self, action: ServerAction) -> Result<(), Error>;
}

/// A store that one case has for itself.
#[derive(Clone)]
pub struct DedicatedStore {
    connector: Arc<dyn Connect>,
    servers: Arc<dyn Servers>,
}

impl DedicatedStore {
    /// The store behind that connector, which runs on those servers.
    #[must_use]
    pub fn new(connector: Arc<dyn Connect>, servers: impl Servers) -> Self {
        let servers = Arc::new(servers);
        Self { connector, servers }
    }

    /// The way to the store.
    #[must_use]
    pub fn connector(&self) -> Arc<dyn Connect> {
        Arc::clone(&self.connector)
    }

    /// What it runs on.
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
