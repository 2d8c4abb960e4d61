//! The stores, and all who lock on them.

use std::{any::Any, sync::Arc, time::Duration};

use async_trait::async_trait;
use tenure::{
    Client, default_registry,
    settings::{Settings, StoreUrl},
};
use tenure_load::Locks;
pub(crate) use tenure_load::{Contender, Failure};
use tenure_test_servers::wire::Proxy;

use crate::program::Launch;

/// The time to live of every lock here.
pub(crate) const TTL: Duration = Duration::from_secs(30);

/// Reads a counter of requests.
pub(crate) type Requests = Box<dyn Fn() -> Option<f64>>;
/// Starts a proxy in front of the server at an address.
pub(crate) type MakeProxy = fn(&str) -> Result<Proxy, tenure_test_servers::Error>;

/// A store, and all who lock on it.
pub(crate) struct Store {
    pub(crate) what: String,
    pub(crate) url: String,
    pub(crate) contenders: Vec<Arc<dyn Contender>>,
    /// Implementations in other languages.
    pub(crate) launches: Vec<Launch>,
    /// Who was not found on this machine, each with what to install.
    pub(crate) missing: Vec<String>,
    /// How many requests the server has heard so far, if it counts them.
    pub(crate) requests: Requests,
    proxy: Option<MakeProxy>,
    /// Runs until this is dropped.
    _server: Box<dyn Any>,
}

impl Store {
    pub(crate) fn new(
        what: String,
        url: String,
        contenders: Vec<Arc<dyn Contender>>,
        requests: Requests,
        server: impl Any,
    ) -> Self {
        Self {
            what,
            url,
            contenders,
            launches: Vec::new(),
            missing: Vec::new(),
            requests,
            proxy: None,
            _server: Box::new(server),
        }
    }

    /// One whose server counts its requests.
    pub(crate) fn metered<S: 'static>(
        what: String,
        url: String,
        contenders: Vec<Arc<dyn Contender>>,
        server: S,
        requests: fn(&S) -> Option<f64>,
    ) -> Self {
        let server = Arc::new(server);
        let metered = Arc::clone(&server);
        let requests = Box::new(move || requests(&metered));
        Self::new(what, url, contenders, requests, server)
    }

    /// With a proxy that understands its protocol.
    pub(crate) fn behind(mut self, proxy: MakeProxy) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// With these in other languages, or what they say is missing.
    pub(crate) fn beside<const N: usize>(mut self, others: [Result<Launch, String>; N]) -> Self {
        for other in others {
            match other {
                Ok(launch) => self.launches.push(launch),
                Err(missing) => self.missing.push(missing),
            }
        }
        self
    }

    /// A new proxy in front of its server; none if it has no server.
    pub(crate) fn proxy(&self) -> Result<Option<Proxy>, Failure> {
        let proxy = self.proxy.map(|start| start(address(&self.url)));
        Ok(proxy.transpose()?)
    }
}

/// The address in a URL.
pub(crate) fn address(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, address)| address)
}

/// Ours, with a client of its own.
pub(crate) struct Tenure(Locks);

impl Tenure {
    pub(crate) async fn connect(url: &str) -> Result<Self, Failure> {
        Ok(Self(Locks::new("tenure", client(url, TTL).await?)))
    }
}

#[async_trait]
impl Contender for Tenure {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn waits(&self) -> bool {
        self.0.waits()
    }

    async fn turn(&self, lock: &str, held: &(dyn Fn() + Sync)) -> Result<(), Failure> {
        self.0.turn(lock, held).await
    }

    async fn connect(&self, url: &str) -> Result<Option<Arc<dyn Contender>>, Failure> {
        Ok(Some(Arc::new(Self::connect(url).await?)))
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

/// A client of the store at this address.
pub(crate) async fn client(url: &str, ttl: Duration) -> Result<Client, Failure> {
    let settings = Settings::new(StoreUrl::parse(url)?);
    let store = default_registry().open(&settings)?;
    Ok(Client::builder(store).ttl(ttl).connect().await?)
}
