//! A store with two servers, with faults of their own on the connections to each. Both serve the same
//! locks. A client uses one server, and leaves it when a request takes too long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tenure_conformance::{
    fault::{Fault, Line},
    wrap::{Plan, Tap},
};
use tenure_core::{
    backend::{Backend, BackendInfo, Connect, Context, RenewalAnswers},
    capability::Capabilities,
    clock::{Clock, Instant, SystemClock},
    error::Error,
    name::LockName,
    request::{
        Downgrade, Downgraded, Enqueue, Enqueued, Evicted, List, LockState, Page, Remove, Removed,
        Renewal,
    },
    token::FencingToken,
};

/// The connector.
#[derive(Debug)]
pub(crate) struct TwoServers {
    servers: [Tap; 2],
    /// Whether a client stays with a server that is slow.
    stays: bool,
}

/// The faults on the connections to the servers.
#[derive(Clone, Debug)]
pub(crate) struct Lines([Plan; 2]);

impl TwoServers {
    pub(crate) fn new(store: &Arc<dyn Connect>, stays: bool) -> (Self, Lines) {
        let lines = [Plan::new(), Plan::new()];
        let servers = lines
            .each_ref()
            .map(|plan| Tap::new(Arc::clone(store), plan));
        (Self { servers, stays }, Lines(lines))
    }
}

impl Line for Lines {
    fn set(&self, fault: Fault) {
        self.0.iter().for_each(|plan| Line::set(plan, fault));
    }

    fn servers(&self) -> usize {
        self.0.len()
    }

    fn set_on(&self, server: usize, fault: Fault) {
        Line::set(&self.0[server], fault);
    }

    fn reset(&self) {
        self.0.iter().for_each(Line::reset);
    }

    fn effects(&self) -> u64 {
        self.0.iter().map(Line::effects).sum()
    }
}

#[async_trait]
impl Connect for TwoServers {
    fn info(&self) -> BackendInfo {
        self.servers[0].info()
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        let [first, second] = &self.servers;
        let patience = context.request_timeout / 2;
        let connections = [
            first.connect(context.clone()).await?,
            second.connect(context).await?,
        ];
        Ok(Arc::new(Client {
            connections,
            current: AtomicUsize::new(0),
            patience: (!self.stays).then_some(patience),
        }))
    }
}

#[derive(Debug)]
struct Client {
    connections: [Arc<dyn Backend>; 2],
    current: AtomicUsize,
    /// How long a request may take until the client leaves the server; `None` if it never does.
    patience: Option<Duration>,
}

/// A request to the current server. When it ends or is dropped, a slow server is left.
struct Request<'a> {
    client: &'a Client,
    server: usize,
    begun: Instant,
}

impl Client {
    fn request(&self) -> Request<'_> {
        Request {
            client: self,
            server: self.current.load(Ordering::SeqCst),
            begun: SystemClock.now(),
        }
    }
}

impl Request<'_> {
    fn server(&self) -> &dyn Backend {
        &*self.client.connections[self.server]
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let took = SystemClock.now().since(self.begun);
        if self.client.patience.is_some_and(|patience| took > patience) {
            let _ = self.client.current.compare_exchange(
                self.server,
                1 - self.server,
                Ordering::SeqCst,
                Ordering::SeqCst,
            );
        }
    }
}

#[async_trait]
impl Backend for Client {
    fn info(&self) -> BackendInfo {
        self.connections[0].info()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        self.connections[0].capabilities().await
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        self.request().server().enqueue(request).await
    }

    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        self.request().server().renew(entries, answers).await;
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        self.request().server().remove(request).await
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        self.request().server().inspect(name).await
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        self.request().server().list(request).await
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        self.request().server().evict(name, token).await
    }

    async fn downgrade(&self, request: Downgrade) -> Result<Downgraded, Error> {
        self.request().server().downgrade(request).await
    }

    async fn discard(&self, name: &LockName) -> Result<Option<Duration>, Error> {
        self.request().server().discard(name).await
    }

    async fn close(&self) {
        for connection in &self.connections {
            connection.close().await;
        }
    }
}
