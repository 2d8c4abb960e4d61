//! The driver: hands each operation to its module.

use std::sync::Arc;

use async_trait::async_trait;
use tenure_core::{
    backend::{Backend, BackendInfo, Connect, Context, RenewalAnswers},
    capability::Capabilities,
    error::Error,
    name::LockName,
    request::{
        Downgrade, Downgraded, Enqueue, Enqueued, Evicted, List, LockState, Page, Remove, Removed,
        Renewal,
    },
    settings::StoreUrl,
    token::FencingToken,
};

use crate::{
    address::Address, check::ServerLimits, config::Options, downgrade::downgrade, enqueue::enqueue,
    inspect, remove::remove, renew::renew, session::DriverConfig, shared::Shared,
};

/// A store of locks on ZooKeeper, not yet connected.
#[derive(Clone, Debug)]
pub struct ZooKeeperStore {
    address: Address,
    options: Options,
}

impl ZooKeeperStore {
    /// Creates a store for this URL, for example `zookeeper://10.0.0.1`, with the default options. Sends nothing.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn new(url: impl AsRef<str>) -> Result<Self, Error> {
        Self::open(&StoreUrl::parse(url.as_ref())?, Options::default())
    }

    /// The store at this address. [`ZooKeeperFactory`](crate::ZooKeeperFactory) lists the schemes.
    /// Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// An error of the kind [`ErrorKind::Config`](tenure_core::error::ErrorKind::Config) says what is
    /// wrong with the address or an option.
    pub fn open(url: &StoreUrl, options: Options) -> Result<Self, Error> {
        let address = Address::new(url, &options)?;
        Ok(Self { address, options })
    }
}

#[async_trait]
impl Connect for ZooKeeperStore {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("zookeeper", self.address.to_string())
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        let config = Arc::new(DriverConfig {
            address: self.address.clone(),
            options: self.options.clone(),
            context,
        });
        let shared = Arc::new(Shared::new(config));
        let limits = ServerLimits::discover(&shared).await?;
        Ok(Arc::new(ZooKeeperBackend {
            info: self.info(),
            capabilities: limits.capabilities(&shared.config),
            shared,
        }))
    }
}

/// One client of the locks of a namespace.
#[derive(Debug)]
struct ZooKeeperBackend {
    info: BackendInfo,
    capabilities: Capabilities,
    shared: Arc<Shared>,
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
        if self.shared.is_fenced(request.attempt) {
            return Ok(Enqueued::Gone);
        }
        enqueue(&self.shared, request).await
    }

    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        renew(&self.shared, entries, &answers).await;
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        remove(&self.shared, &request).await
    }

    async fn downgrade(&self, request: Downgrade) -> Result<Downgraded, Error> {
        downgrade(&self.shared, &request).await
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        inspect::inspect(&self.shared, name).await
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        inspect::list(&self.shared, &request).await
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        inspect::evict(&self.shared, name, token).await
    }

    async fn close(&self) {
        self.shared.pool.close().await;
    }
}
