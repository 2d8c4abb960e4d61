//! The stores, and all who lock on them.

use std::{any::Any, sync::Arc, time::Duration};

use tenure::{
    Client, default_registry,
    settings::{Settings, StoreUrl},
};
use tenure_load::Locks;
pub(crate) use tenure_load::{Contender, Failure};

/// The time to live of every lock here.
pub(crate) const TTL: Duration = Duration::from_secs(30);

/// Reads a counter of requests.
pub(crate) type Requests = Box<dyn Fn() -> Option<f64>>;

/// A store, and all who lock on it.
pub(crate) struct Store {
    pub(crate) what: String,
    pub(crate) url: String,
    pub(crate) contenders: Vec<Arc<dyn Contender>>,
    /// How many requests the server has heard so far, if it counts them.
    pub(crate) requests: Requests,
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
            requests,
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
}

/// Ours, with a client of its own.
pub(crate) async fn tenure(url: &str) -> Result<Locks, Failure> {
    Ok(Locks::new("tenure", client(url, TTL).await?))
}

/// A client of the store at this address.
pub(crate) async fn client(url: &str, ttl: Duration) -> Result<Client, Failure> {
    let settings = Settings::new(StoreUrl::parse(url)?);
    let store = default_registry().open(&settings)?;
    Ok(Client::builder(store).ttl(ttl).connect().await?)
}
