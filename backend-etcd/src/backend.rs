//! The driver: each operation of the trait is a transaction.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tenure_core::{
    backend::{Backend, BackendInfo, Connect, Context, RenewalAnswers},
    capability::{
        Capabilities, Durability, Evidence, LossEvidence, TakeoverBound, TtlRange, TtlScope,
        WaitMode,
    },
    error::Error,
    mode::Modes,
    name::LockName,
    request::{
        Downgrade, Downgraded, Enqueue, Enqueued, Evicted, List, LockState, Page, Remove, Removed,
        Renewal,
    },
    settings::StoreUrl,
    token::FencingToken,
};
use tokio::task::AbortHandle;

use crate::{
    address::Address,
    attempts::Attempts,
    config::Options,
    enqueue, inspect,
    keys::KeySpace,
    lease::pool::LeasePool,
    remove, renew, rewrite,
    shared::Shared,
    transport::Endpoints,
    watch::{Watcher, task::WatchTask},
};

/// The longest TTL. A longer one is most likely meant to outlive its holder.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// A lock store on etcd that is not connected yet.
#[derive(Clone, Debug)]
pub struct EtcdStore {
    address: Address,
    options: Options,
}

impl EtcdStore {
    /// Creates a store for this URL, for example `etcd://10.0.0.1`, with the default options. Sends nothing.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn new(url: impl AsRef<str>) -> Result<Self, Error> {
        Self::open(&StoreUrl::parse(url.as_ref())?, Options::default())
    }

    /// A store at this address. [`EtcdFactory`](crate::EtcdFactory) lists the schemes. This sends
    /// nothing yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](tenure_core::error::ErrorKind::Config) describes what is wrong with
    /// the address, or with an option that does not fit it.
    pub fn open(url: &StoreUrl, options: Options) -> Result<Self, Error> {
        let address = Address::new(url, &options)?;
        Ok(Self { address, options })
    }
}

#[async_trait]
impl Connect for EtcdStore {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("etcd", self.address.to_string())
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        let endpoints = Arc::new(Endpoints::new(
            self.address.clone(),
            self.options.clone(),
            context.events.clone(),
            context.request_timeout,
        ));
        let keys = KeySpace::new(&context.namespace);
        let absent_key = keys.absent_key();
        let clock = Arc::clone(&context.clock);
        let leases = Arc::new(LeasePool::new(
            Arc::clone(&endpoints),
            clock,
            absent_key.clone(),
        ));
        let (watcher, input) = Watcher::new();
        let mut shared = Shared {
            endpoints: Arc::clone(&endpoints),
            leases: Arc::clone(&leases),
            keys,
            absent_key: absent_key.clone(),
            attempts: Attempts::default(),
            watcher,
            min_ttl: Duration::from_secs(1),
            context,
        };
        shared
            .check_access(self.options.connection.username.as_deref())
            .await?;
        let mut tasks = Vec::new();
        if !shared.context.read_only {
            shared.min_ttl = shared.probe_min_ttl().await?;
        }
        let observer = shared.context.read_only;
        let shared = Arc::new(shared);
        if !observer {
            let task = WatchTask::new(Arc::downgrade(&shared), endpoints, absent_key, input);
            tasks.push(tokio::spawn(task.run()).abort_handle());
            tasks.push(tokio::spawn(LeasePool::run(Arc::downgrade(&leases))).abort_handle());
        }
        Ok(Arc::new(EtcdBackend {
            info: self.info(),
            shared,
            tasks,
        }))
    }
}

/// One client's connection to the locks of a namespace.
#[derive(Debug)]
pub(crate) struct EtcdBackend {
    info: BackendInfo,
    shared: Arc<Shared>,
    tasks: Vec<AbortHandle>,
}

#[async_trait]
impl Backend for EtcdBackend {
    fn info(&self) -> BackendInfo {
        self.info.clone()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        Ok(Capabilities::new(
            Durability::Consensus,
            WaitMode::Push,
            LossEvidence::new(Evidence::Push, Evidence::Push),
            TtlRange::new(
                self.shared.min_ttl,
                MAX_TTL,
                Duration::from_secs(1),
                TtlScope::Pooled,
            ),
            // The server searches for expired leases every half a second and revokes them through
            // its log. Half of the waiter's TTL covers a watch event that was lost with its server.
            TakeoverBound::new(100, 50, Duration::from_secs(2)),
        )
        .with_modes(Modes::ALL)
        .with_residue(Some(Duration::ZERO)))
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        enqueue::enqueue(&self.shared, &request).await
    }

    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        renew::renew(&self.shared, entries, &answers).await;
    }

    async fn downgrade(&self, request: Downgrade) -> Result<Downgraded, Error> {
        rewrite::downgrade(&self.shared, &request).await
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        remove::remove(&self.shared, &request).await
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
        for task in &self.tasks {
            task.abort();
        }
        let timeout = self
            .shared
            .context
            .request_timeout
            .min(Duration::from_secs(2));
        self.shared.leases.close(timeout).await;
        self.shared.endpoints.close();
    }
}

impl Drop for EtcdBackend {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
