//! A store: its server, and the implementations and peers that are measured on it.

use std::{any::Any, sync::Arc};

use tenure_test_servers::wire::Proxy;

use crate::{
    implementation::{Failure, Implementation, address},
    kinds::{SharedLocks, TenureKinds},
    peer::Peer,
};

/// Reads the number of requests that the server has received.
pub(crate) type CountRequests = Box<dyn Fn() -> Option<f64>>;
/// Starts a proxy in front of the server at an address.
pub(crate) type StartProxy = fn(&str) -> Result<Proxy, tenure_test_servers::Error>;

/// A store that is measured.
pub(crate) struct Store {
    pub(crate) description: String,
    pub(crate) url: String,
    pub(crate) implementations: Vec<Arc<dyn Implementation>>,
    /// The implementations of shared and counted locks.
    pub(crate) shared_locks: Vec<Arc<dyn SharedLocks>>,
    /// Libraries in other languages.
    pub(crate) peers: Vec<Peer>,
    /// For each peer that this machine lacks, what to install.
    pub(crate) missing: Vec<String>,
    /// Returns `None` if the server does not count its requests.
    pub(crate) requests: CountRequests,
    start_proxy: Option<StartProxy>,
    /// The server, which ends when this is dropped.
    _server: Box<dyn Any>,
}

impl Store {
    pub(crate) fn new(
        description: String,
        url: String,
        implementations: Vec<Arc<dyn Implementation>>,
        requests: CountRequests,
        server: impl Any,
    ) -> Self {
        Self {
            description,
            url,
            implementations,
            shared_locks: vec![Arc::new(TenureKinds)],
            peers: Vec::new(),
            missing: Vec::new(),
            requests,
            start_proxy: None,
            _server: Box::new(server),
        }
    }

    /// Creates a store whose server counts its requests.
    pub(crate) fn counting<S: 'static>(
        description: String,
        url: String,
        implementations: Vec<Arc<dyn Implementation>>,
        server: S,
        requests: fn(&S) -> Option<f64>,
    ) -> Self {
        let server = Arc::new(server);
        let counting = Arc::clone(&server);
        let requests = Box::new(move || requests(&counting));
        Self::new(description, url, implementations, requests, server)
    }

    /// Sets the proxy that understands the protocol of the store.
    pub(crate) fn with_proxy(mut self, start: StartProxy) -> Self {
        self.start_proxy = Some(start);
        self
    }

    /// Adds the peers that this machine has, and remembers the others as missing.
    pub(crate) fn with_peers<const N: usize>(mut self, peers: [Result<Peer, String>; N]) -> Self {
        for peer in peers {
            match peer {
                Ok(peer) => self.peers.push(peer),
                Err(missing) => self.missing.push(missing),
            }
        }
        self
    }

    /// Adds an implementation of shared and counted locks.
    pub(crate) fn with_shared_locks(mut self, shared: impl SharedLocks + 'static) -> Self {
        self.shared_locks.insert(0, Arc::new(shared));
        self
    }

    /// Starts a proxy in front of the server; returns `None` if the store has no server.
    pub(crate) fn proxy(&self) -> Result<Option<Proxy>, Failure> {
        let proxy = self.start_proxy.map(|start| start(address(&self.url)));
        Ok(proxy.transpose()?)
    }
}
