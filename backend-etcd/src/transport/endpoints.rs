//! Failover between the servers: one connection at a time, and another one as soon as its server
//! does not answer.
//!
//! The client library spreads requests over all servers, and a request to a stopped server hangs.
//! So each server has its own connection here, and this module selects it: when a request gets no
//! reply for a while, later requests go to the next server. The first request keeps waiting for its
//! reply.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use etcd_client::Client;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tenure_core::{
    backend::{BackendEvent, EventSink},
    driver::EndpointList,
    error::ErrorKind,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time,
};

use crate::{
    address::Address, config::Options, error::RequestError, keepalive_validity::ServerVersion,
};

/// Lower bound of the failover timeout: no server is suspected earlier.
const FAILOVER_TIMEOUT_MIN: Duration = Duration::from_millis(250);
const FAILOVER_TIMEOUT_MAX: Duration = Duration::from_secs(1);

/// How many requests may be in flight to one server. More would only queue there, for longer than a
/// working server may take.
const MAX_IN_FLIGHT_REQUESTS: usize = 256;

/// The servers of a store.
pub(crate) struct Endpoints {
    address: Address,
    options: Options,
    events: EventSink,
    /// After this time, no request waits for a reply any more.
    pub(crate) request_timeout: Duration,
    /// In milliseconds, like the next field.
    failover_timeout: AtomicU64,
    max_failover_timeout: AtomicU64,
    /// Whether a server did not reply in the failover timeout, and no server has replied quickly
    /// since.
    slow: AtomicBool,
    /// Whether the last reply was too late, on a network that was known to be slow.
    late: AtomicBool,
    state: Mutex<EndpointsState>,
    connect_lock: tokio::sync::Mutex<()>,
    generation_changes: watch::Sender<u64>,
    /// Whether the user was warned of a server's version.
    warned_of_version: AtomicBool,
}

struct EndpointsState {
    /// The servers, with the one in use.
    servers: EndpointList,
    /// Incremented whenever another connection is to be used.
    generation: u64,
    connection: Option<Connection>,
    /// Whether the last report to the core was that the connection works.
    reported_up: bool,
    closed: bool,
}

/// A connection to one server.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) client: Arc<Client>,
    pub(crate) generation: u64,
    /// Whether a keep-alive reply of this server alone proves that the lease is alive.
    pub(crate) trusted: bool,
    /// The requests that may still be sent while others are in flight.
    permits: Arc<Semaphore>,
}

impl Endpoints {
    pub(crate) fn new(
        address: Address,
        options: Options,
        events: EventSink,
        request_timeout: Duration,
    ) -> Self {
        let servers = address.endpoints.clone().shuffled();
        let endpoints = Self {
            address,
            options,
            events,
            request_timeout,
            failover_timeout: AtomicU64::new(0),
            max_failover_timeout: AtomicU64::new(0),
            slow: AtomicBool::new(false),
            late: AtomicBool::new(false),
            state: Mutex::new(EndpointsState {
                servers,
                generation: 1,
                connection: None,
                reported_up: true,
                closed: false,
            }),
            connect_lock: tokio::sync::Mutex::default(),
            generation_changes: watch::Sender::new(1),
            warned_of_version: AtomicBool::new(false),
        };
        endpoints.set_failover_timeout(None);
        endpoints
    }

    /// Bounds the failover timeout by the shortest TTL in use: a renewal must reach another server
    /// in time.
    pub(crate) fn set_failover_timeout(&self, shortest: Option<Duration>) {
        let longest = FAILOVER_TIMEOUT_MAX
            .min(self.request_timeout / 3)
            .max(FAILOVER_TIMEOUT_MIN);
        let failover_timeout = shortest.map_or(longest, |ttl| {
            (ttl / 6).clamp(FAILOVER_TIMEOUT_MIN, longest)
        });
        // A network on which an answer takes almost the time limit of a request is slow, and not down.
        let max = self.request_timeout;
        let max = shortest
            .map_or(max, |ttl| max.min(ttl / 3))
            .max(failover_timeout);
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(1_000);
        self.failover_timeout
            .store(millis(failover_timeout), Ordering::Relaxed);
        self.max_failover_timeout
            .store(millis(max), Ordering::Relaxed);
    }

    /// How long to wait for a reply before another server is used. Longer once a server did not reply
    /// in that time: all of them may be slow, and each new connection takes even longer.
    pub(crate) fn failover_timeout(&self) -> Duration {
        if self.slow.load(Ordering::Relaxed) {
            Duration::from_millis(self.max_failover_timeout.load(Ordering::Relaxed))
        } else {
            self.base_failover_timeout()
        }
    }

    fn base_failover_timeout(&self) -> Duration {
        Duration::from_millis(self.failover_timeout.load(Ordering::Relaxed))
    }

    /// Notifies of each change to another connection.
    pub(crate) fn connection_changes(&self) -> watch::Receiver<u64> {
        self.generation_changes.subscribe()
    }

    pub(crate) fn is_current(&self, connection: &Connection) -> bool {
        self.lock().generation == connection.generation
    }

    /// Closes the transport; nothing is sent any more.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.connection = None;
        drop(state);
        self.generation_changes.send_replace(u64::MAX);
    }

    /// Returns the connection in use, or makes one. Tries each server once.
    pub(crate) async fn connection(&self) -> Result<Connection, RequestError> {
        if let Some(connection) = self.current()? {
            return Ok(connection);
        }
        // Boxed, because this is rare and the future is large.
        Box::pin(self.connect_any()).await
    }

    async fn connect_any(&self) -> Result<Connection, RequestError> {
        let _one_at_a_time = self.connect_lock.lock().await;
        let mut last_error = RequestError::no_reply();
        let mut opening = FuturesUnordered::new();
        let mut untried = self.address.len();
        loop {
            if let Some(connection) = self.current()? {
                return Ok(connection);
            }
            if untried > 0 {
                untried -= 1;
                opening.push(self.open_current());
            }
            // A server that takes this long is slow or gone: the next one is tried beside it.
            let patience = time::sleep(2 * self.base_failover_timeout());
            let opened = tokio::select! {
                biased;
                Some(opened) = opening.next() => Some(opened),
                () = patience, if untried > 0 => None,
                else => break,
            };
            match opened {
                Some((_, Ok(mut connection))) => {
                    let mut state = self.lock();
                    if !state.closed {
                        connection.generation = state.generation;
                        state.connection = Some(connection.clone());
                        return Ok(connection);
                    }
                }
                Some((server, Err(error))) => {
                    tracing::debug!(endpoint = server, ?error, "no connection");
                    last_error = error.at_endpoint(&server);
                }
                None => {}
            }
            let generation = self.lock().generation;
            self.mark_suspect(generation);
        }
        // Nothing of the request that needs the connection was sent.
        Err(match last_error {
            RequestError::Unanswered { source, .. } => RequestError::Unsent {
                kind: ErrorKind::Unavailable,
                detail: format!("no server of {} answers as etcd does", self.address),
                source,
            },
            RequestError::Refused {
                kind,
                detail,
                retry_elsewhere: _,
            } => RequestError::Unsent {
                kind,
                detail,
                source: None,
            },
            other => other,
        })
    }

    /// Connects to the server that is to be used now. Returns its URL, too.
    async fn open_current(&self) -> (String, Result<Connection, RequestError>) {
        let server = self.address.url_of(self.lock().servers.current());
        let limit = self.options.connection.connect_timeout;
        let opened = time::timeout(limit, self.connect(&server)).await;
        let opened = opened.unwrap_or_else(|_| Err(RequestError::no_reply()));
        (server, opened)
    }

    async fn connect(&self, server: &str) -> Result<Connection, RequestError> {
        let config = |error: tenure_core::error::Error| RequestError::Unsent {
            kind: error.kind(),
            detail: error.detail().unwrap_or_default().to_owned(),
            source: None,
        };
        let options = self
            .options
            .connect_options(self.address.tls)
            .map_err(config)?;
        let client = Client::connect([server], Some(options)).await?;
        // Also shows that the server is reachable and knows a leader, before a request depends on
        // it.
        let status = client.maintenance_client().status().await?;
        let version = ServerVersion::parse(status.version());
        if version.is_some_and(|version| version < ServerVersion::MIN_SUPPORTED) {
            return Err(RequestError::Unsent {
                kind: ErrorKind::Unsupported,
                detail: format!(
                    "etcd {} is not supported; use 3.4 or later",
                    status.version()
                ),
                source: None,
            });
        }
        if version.is_some_and(ServerVersion::can_diverge)
            && !self.warned_of_version.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                backend = "etcd",
                "a server runs etcd {}, whose members can keep different data after one of them was \
                 killed, so that two clients can hold one lock and tokens can fall (etcd issue \
                 13766); update the servers to 3.5.3 or later",
                status.version()
            );
        }
        let trust = self.options.keepalive_trusted;
        Ok(Connection {
            client: Arc::new(client),
            // Set when the connection is taken into use.
            generation: 0,
            trusted: version.is_some_and(|version| version.keepalives_are_trusted(trust)),
            permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT_REQUESTS)),
        })
    }

    /// Sends a request to the server in use and waits up to `limit` for the reply. If a server
    /// cannot be reached, or rejects the request because of its own state, the next one gets the
    /// request: the first one has not applied it.
    pub(crate) async fn call<T, R, F>(
        &self,
        limit: Duration,
        request: R,
        send: impl Fn(Connection, R) -> F,
    ) -> Result<T, RequestError>
    where
        R: Clone,
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut retries = self.address.len();
        loop {
            let connection = self.connection().await?;
            // Boxed, because the library's futures are large and this one becomes part of many
            // others.
            let exchange = Box::pin(send(connection.clone(), request.clone()));
            match self.await_reply(&connection, limit, exchange).await {
                Err(error) if error.may_retry_elsewhere() && retries > 0 => retries -= 1,
                reply => return reply,
            }
        }
    }

    /// Sends a request to one server after the other until one replies. Use it only for requests
    /// that may be applied more than once.
    pub(crate) async fn call_any<T, R, F>(
        &self,
        request: R,
        send: impl Fn(Connection, R) -> F,
    ) -> Result<T, RequestError>
    where
        R: Clone,
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut retries = self.address.len();
        loop {
            let Some((connection, _permit)) = self.acquire_permit().await? else {
                continue;
            };
            let exchange = Box::pin(send(connection.clone(), request.clone()));
            let limit = if retries > 0 {
                self.failover_timeout()
            } else {
                self.request_timeout
            };
            match self.await_reply(&connection, limit, exchange).await {
                Err(error) if error.is_server_failure() && retries > 0 => retries -= 1,
                reply => return reply,
            }
        }
    }

    /// Returns the connection in use and a permit to send on it. Returns `None` if another
    /// connection came into use during the wait.
    async fn acquire_permit(
        &self,
    ) -> Result<Option<(Connection, OwnedSemaphorePermit)>, RequestError> {
        let connection = self.connection().await?;
        if let Ok(permit) = Arc::clone(&connection.permits).try_acquire_owned() {
            return Ok(Some((connection, permit)));
        }
        let mut changes = self.connection_changes();
        let changed = changes.wait_for(|generation| *generation != connection.generation);
        tokio::select! {
            permit = Arc::clone(&connection.permits).acquire_owned() => {
                Ok(permit.ok().map(|permit| (connection, permit)))
            }
            _ = changed => Ok(None),
        }
    }

    /// Waits up to `limit` for the reply of this server, and suspects the server if the reply takes
    /// long.
    pub(crate) async fn await_reply<T>(
        &self,
        connection: &Connection,
        limit: Duration,
        mut exchange: impl Future<Output = Result<T, etcd_client::Error>> + Unpin,
    ) -> Result<T, RequestError> {
        let failover_timeout = self.failover_timeout();
        let began = time::Instant::now();
        let reply = match time::timeout(failover_timeout, &mut exchange).await {
            Ok(reply) => {
                self.late.store(false, Ordering::Relaxed);
                // A reply that takes almost that time does not show that the next one will come in it.
                if began.elapsed() < self.base_failover_timeout() / 2 {
                    self.slow.store(false, Ordering::Relaxed);
                }
                Some(reply)
            }
            Err(_) => {
                // A new connection takes several round trips. So on a network that is known to be slow,
                // one late reply is no reason for it; two in a row are.
                let was_slow = self.slow.swap(true, Ordering::Relaxed);
                let counts = self.is_current(connection);
                if counts && (!was_slow || self.late.swap(true, Ordering::Relaxed)) {
                    self.late.store(false, Ordering::Relaxed);
                    self.mark_suspect(connection.generation);
                }
                let rest = limit.saturating_sub(failover_timeout);
                time::timeout(rest, exchange).await.ok()
            }
        };
        match reply {
            Some(Ok(reply)) => {
                self.mark_alive(connection.generation);
                Ok(reply)
            }
            Some(Err(error)) => {
                let error = RequestError::from(error);
                if error.is_server_failure() {
                    self.mark_suspect(connection.generation);
                } else {
                    self.mark_alive(connection.generation);
                }
                Err(error)
            }
            None => Err(RequestError::no_reply()),
        }
    }

    /// Records that the server of this generation does not answer; later requests use the next
    /// server.
    pub(crate) fn mark_suspect(&self, generation: u64) {
        let mut state = self.lock();
        if state.generation != generation || state.closed {
            return;
        }
        state.generation += 1;
        state.servers.advance();
        state.connection = None;
        let was_up = std::mem::replace(&mut state.reported_up, false);
        let generation = state.generation;
        drop(state);
        self.generation_changes.send_replace(generation);
        if was_up {
            self.events.send(BackendEvent::Suspect);
        }
    }

    /// Records that the server of this generation has answered.
    pub(crate) fn mark_alive(&self, generation: u64) {
        let mut state = self.lock();
        if state.reported_up || state.generation != generation || state.closed {
            return;
        }
        state.reported_up = true;
        drop(state);
        self.events.send(BackendEvent::Reconnected);
    }

    fn current(&self) -> Result<Option<Connection>, RequestError> {
        let state = self.lock();
        if state.closed {
            return Err(RequestError::Unsent {
                kind: ErrorKind::Closed,
                detail: "the client was shut down".to_owned(),
                source: None,
            });
        }
        Ok(state.connection.clone())
    }

    fn lock(&self) -> MutexGuard<'_, EndpointsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("generation", &self.generation)
            .field("trusted", &self.trusted)
            .finish_non_exhaustive()
    }
}
