//! The driver: what the core asks for, handed to those who do it.

use std::sync::Arc;

use async_trait::async_trait;
use tenure_core::{
    backend::{Backend, BackendInfo, Connect, Context},
    capability::Capabilities,
    error::Error,
    name::LockName,
    request::{
        Enqueue, Enqueued, Evicted, List, LockState, Page, Remove, Removed, Renewal, Renewed,
    },
    settings::StoreUrl,
    token::FencingToken,
};

use crate::{
    config::Options,
    connect::{Limits, prepare},
    core::Core,
    enqueue::enqueue,
    remove::remove,
    renewal,
    session::Settings,
    target::Target,
    view,
};

/// A store of locks on ZooKeeper, not yet connected.
#[derive(Clone, Debug)]
pub struct ZooKeeperStore {
    target: Target,
    options: Options,
}

impl ZooKeeperStore {
    /// The store at this address, by the schemes that
    /// [`ZooKeeperFactory`](crate::ZooKeeperFactory) lists. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](tenure_core::error::ErrorKind::Config) says what is wrong with the
    /// address, or with an option for it.
    pub fn open(url: &StoreUrl, options: Options) -> Result<Self, Error> {
        let target = Target::new(url, &options)?;
        Ok(Self { target, options })
    }
}

#[async_trait]
impl Connect for ZooKeeperStore {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("zookeeper", self.target.to_string())
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        let settings = Arc::new(Settings {
            target: self.target.clone(),
            options: self.options.clone(),
            context,
        });
        let core = Arc::new(Core::new(settings));
        let limits = Limits::learn(&core).await?;
        prepare(&core).await?;
        Ok(Arc::new(ZooKeeperBackend {
            info: self.info(),
            capabilities: limits.capabilities(&core.settings),
            core,
        }))
    }
}

/// One client's way to the locks of a namespace.
#[derive(Debug)]
pub(crate) struct ZooKeeperBackend {
    info: BackendInfo,
    capabilities: Capabilities,
    core: Arc<Core>,
}

#[async_trait]
impl Backend for ZooKeeperBackend {
    fn info(&self) -> BackendInfo {
        self.info.clone()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        Ok(self.capabilities)
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        if self.core.is_fenced(request.attempt) {
            return Ok(Enqueued::Gone);
        }
        enqueue(&self.core, &request).await
    }

    async fn renew(&self, entries: Vec<Renewal>) -> Vec<Renewed> {
        renewal::renew(&self.core, entries).await
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        remove(&self.core, &request).await
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        view::inspect(&self.core, name).await
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        view::list(&self.core, &request).await
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        view::evict(&self.core, name, token).await
    }

    async fn close(&self) {
        self.core.pool.close().await;
    }
}
