//! The implementations of locks, and the client of `tenure`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tenure::{
    Client, default_registry,
    settings::{Settings, StoreUrl},
};
pub(crate) use tenure_load::{Failure, Implementation};
use tenure_load::{LockOf, TenureLocks};

/// The TTL of every lock, unless a measurement has its own.
pub(crate) const TTL: Duration = Duration::from_secs(30);

/// `tenure` with its own client.
pub(crate) struct Tenure(TenureLocks);

impl Tenure {
    pub(crate) async fn connect(url: &str) -> Result<Self, Failure> {
        Ok(Self(TenureLocks::new(client(url, TTL).await?)))
    }

    pub(crate) async fn connect_for(url: &str, lock: LockOf) -> Result<Self, Failure> {
        Ok(Self(TenureLocks::of_kind(client(url, TTL).await?, lock)))
    }
}

#[async_trait]
impl Implementation for Tenure {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn waits(&self) -> bool {
        self.0.waits()
    }

    async fn acquire_and_release(
        &self,
        lock: &str,
        held: &(dyn Fn() + Sync),
    ) -> Result<(), Failure> {
        self.0.acquire_and_release(lock, held).await
    }

    async fn connect(&self, url: &str) -> Result<Option<Arc<dyn Implementation>>, Failure> {
        Ok(Some(Arc::new(Self::connect(url).await?)))
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

/// Connects a client of `tenure` to the store at this URL.
pub(crate) async fn client(url: &str, ttl: Duration) -> Result<Client, Failure> {
    let settings = Settings::new(StoreUrl::parse(url)?);
    let store = default_registry().open(&settings)?;
    Ok(Client::builder(store).ttl(ttl).connect().await?)
}

/// Returns the address in a URL.
pub(crate) fn address(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, address)| address)
}
