//! Who is measured: each takes and gives back a lock in its own way, with one client for all tasks.

use std::{any::Any, error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use tenure::{
    Client, Release, default_registry,
    settings::{Settings, StoreUrl},
};

/// Whatever a contender fails with.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The time to live of every lock here.
pub(crate) const TTL: Duration = Duration::from_secs(30);

/// One way to lock.
#[async_trait]
pub(crate) trait Contender: Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether it can wait for a lock that is taken.
    fn waits(&self) -> bool;

    /// Takes the lock, does nothing under it, and gives it back.
    async fn turn(&self, lock: &str) -> Result<(), Failure>;
}

/// A store, and all who lock on it.
pub(crate) struct Store {
    pub(crate) what: String,
    pub(crate) url: String,
    pub(crate) contenders: Vec<Arc<dyn Contender>>,
    /// Runs until this is dropped.
    _server: Box<dyn Any>,
}

impl Store {
    pub(crate) fn new(
        what: String,
        url: String,
        contenders: Vec<Arc<dyn Contender>>,
        server: impl Any,
    ) -> Self {
        Self {
            what,
            url,
            contenders,
            _server: Box::new(server),
        }
    }
}

/// Ours, by the public way: queue, token, deadline, renewal and notice of loss included.
pub(crate) struct Tenure(Client);

impl Tenure {
    pub(crate) async fn connect(url: &str) -> Result<Self, Failure> {
        let settings = Settings::new(StoreUrl::parse(url)?);
        let store = default_registry().open(&settings)?;
        let client = Client::builder(store).ttl(TTL).connect().await?;
        Ok(Self(client))
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0
    }
}

#[async_trait]
impl Contender for Tenure {
    fn name(&self) -> &'static str {
        "tenure"
    }

    fn waits(&self) -> bool {
        true
    }

    async fn turn(&self, lock: &str) -> Result<(), Failure> {
        turn(&self.0, lock).await
    }
}

/// The same client without a server: what the way through the core costs by itself.
pub(crate) struct Memory(Client);

impl Memory {
    pub(crate) async fn connect() -> Result<Self, Failure> {
        Ok(Self(Tenure::connect("memory:").await?.0))
    }
}

#[async_trait]
impl Contender for Memory {
    fn name(&self) -> &'static str {
        "tenure on memory"
    }

    fn waits(&self) -> bool {
        false
    }

    async fn turn(&self, lock: &str) -> Result<(), Failure> {
        turn(&self.0, lock).await
    }
}

async fn turn(client: &Client, lock: &str) -> Result<(), Failure> {
    let guard = client.lock(lock)?.acquire().await?;
    match guard.release().await {
        Release::Released => Ok(()),
        other => Err(format!("the release gave {other:?}").into()),
    }
}
