//! The driver trait: what a store must offer to carry locks.
//!
//! A driver speaks one store's protocol and reports facts, and from when they hold. It does not
//! retry on transport failures, does not decide when to renew or that a lease is lost, and keeps
//! no policy: all that is the core's, the same for every store.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    capability::Capabilities,
    clock::{Clock, Instant},
    error::Error,
    id::{AttemptId, ClientId},
    loss::LossReason,
    name::{LockName, Namespace},
    request::{
        Enqueue, Enqueued, Evicted, Grant, List, LockState, Page, Remove, Removed, Renewal, Renewed,
    },
    token::FencingToken,
};

/// Facts about a backend that need no I/O. No secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendInfo {
    /// The backend's one word: `redis`, `file`.
    pub scheme: &'static str,
    /// Which store it is, such as `file:/var/lib/locks`: the same text for the same store, and
    /// nothing secret in it.
    pub endpoint: String,
}

impl BackendInfo {
    /// Those facts.
    #[must_use]
    pub fn new(scheme: &'static str, endpoint: impl Into<String>) -> Self {
        Self {
            scheme,
            endpoint: endpoint.into(),
        }
    }
}

/// One connected client of a store, as the core sees it.
///
/// # What every method must keep
///
/// - **Any future may be dropped at any await point**, after which the core calls
///   [`remove`](Self::remove) with `outcome_known = false`. Keep what it takes to find an entry
///   again from before anything is sent.
/// - **Every request is idempotent by attempt id** (A2): it may be repeated and reordered.
/// - `proved_from` is `clock.now()` read before the request was handed to the store's client
///   library (D1). When in doubt, take an earlier moment.
/// - An error whose kind [is without effect](crate::error::ErrorKind::is_without_effect) promises
///   that nothing was changed. After anything was sent and not answered, the kind is
///   [`OutcomeUnknown`](crate::error::ErrorKind::OutcomeUnknown).
/// - [`StoreTime`](crate::request::StoreTime) of a pushed grant is strictly later than that of
///   each "still waiting" that the store answered to the same attempt before it.
/// - What is kept about an attempt is kept until `remove` was answered, or `enqueue` was answered
///   with `Busy` or `Gone` or an error without effect; also beyond the loss of its session.
/// - The store's client library must not resend an unanswered enqueue by itself; or else every
///   removal must fence, since a copy may be carried out after it.
/// - No method retries on a transport failure or waits for the lock. All may be called at the
///   same time.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Facts without I/O, no secrets.
    fn info(&self) -> BackendInfo;

    /// What this backend can do, as far as it is known now. The core asks at connect and again
    /// after [`BackendEvent::Reconnected`].
    async fn capabilities(&self) -> Result<Capabilities, Error>;

    /// Puts an attempt into a lock's queue, in one round trip.
    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error>;

    /// Renews grants and reports waiters: one answer for each entry, in their order. The core
    /// decides when, and batches; the driver sends as few requests as the store allows. A missing
    /// answer counts as [`Renewed::Unknown`].
    ///
    /// The answer is `Proved` only if the store holds this attempt's grant with this token. A
    /// driver that has to split a batch reports the answers of a part as events as soon as it has
    /// them, so that a slow part (a server that is down) holds up no other, and returns them all
    /// the same. The core may call it again before an earlier call has returned.
    async fn renew(&self, entries: Vec<Renewal>) -> Vec<Renewed>;

    /// Takes one attempt out, whether it holds or waits, and when an outcome is unknown fences it
    /// off. Idempotent; touches nobody else's entry. An error whose kind is without effect says that
    /// the entry is still there.
    async fn remove(&self, request: Remove) -> Result<Removed, Error>;

    /// Shows a lock and its queue, and changes nothing.
    async fn inspect(&self, name: &LockName) -> Result<LockState, Error>;

    /// Lists the locks of the namespace that are held or waited for, by pages.
    async fn list(&self, request: List) -> Result<Page, Error>;

    /// Takes away the grant with this token, and no other.
    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error>;

    /// Ends the connection and the driver's tasks. Nothing is called after it.
    async fn close(&self);
}

/// Makes connections to one store. It has been configured and checked, but has done no I/O.
#[async_trait]
pub trait Connect: fmt::Debug + Send + Sync + 'static {
    /// Facts without I/O, no secrets.
    fn info(&self) -> BackendInfo;

    /// Connects one client.
    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error>;
}

#[async_trait]
impl<T: Connect + ?Sized> Connect for Arc<T> {
    fn info(&self) -> BackendInfo {
        (**self).info()
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        (**self).connect(context).await
    }
}

/// What the core gives to a driver at connect.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Context {
    /// The namespace of every name that follows.
    pub namespace: Namespace,
    /// Who this client is.
    pub client: ClientId,
    /// Where word of any attempt goes, at any time.
    pub events: EventSink,
    /// The clock of `proved_from`. No other clock may be read for it.
    pub clock: Arc<dyn Clock>,
    /// Every token must be above this (T1).
    pub token_floor: FencingToken,
    /// The core gives up on a request after this long; a driver may use it for its own time-outs.
    pub request_timeout: Duration,
    /// This client acquires nothing: it inspects, lists and evicts. Connecting it must make nothing
    /// in the store, and needs no way to be told of anything.
    pub read_only: bool,
}

impl Context {
    /// A context with the default namespace, no token floor and five seconds for a request.
    #[must_use]
    pub fn new(client: ClientId, events: EventSink, clock: Arc<dyn Clock>) -> Self {
        Self {
            namespace: Namespace::default(),
            client,
            events,
            clock,
            token_floor: FencingToken::new(0),
            request_timeout: Duration::from_secs(5),
            read_only: false,
        }
    }

    /// Sets the namespace.
    #[must_use]
    pub fn with_namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
        self
    }

    /// Sets the token floor.
    #[must_use]
    pub const fn with_token_floor(mut self, floor: FencingToken) -> Self {
        self.token_floor = floor;
        self
    }

    /// Says whether this client acquires nothing.
    #[must_use]
    pub const fn with_read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets the time limit of a request.
    #[must_use]
    pub const fn with_request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }
}

/// What a driver reports on its own account.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendEvent {
    /// An attempt that waited is the holder now.
    Granted(Grant),
    /// Definite evidence that an attempt's entry is gone.
    Lost {
        /// Whose.
        attempt: AttemptId,
        /// Why.
        reason: LossReason,
    },
    /// The store keeps this attempt's grant for its TTL from there.
    Proved {
        /// Whose.
        attempt: AttemptId,
        /// Read before the request that proves it was handed to the store's client.
        from: Instant,
    },
    /// Something changed in front of a waiter, or under a grant: it is worth asking now. For
    /// stores that tell of a change and not of a grant. The core renews or reports the attempt
    /// with a request that is sent after this.
    Recheck {
        /// Whose.
        attempt: AttemptId,
    },
    /// The connection is back after a gap in which messages may have been lost: the core renews
    /// and reports everything at once, and reads the capabilities again.
    Reconnected,
    /// The connection is lost. No grant is, for that.
    Suspect,
}

/// Takes events. The core's client implements it.
pub trait EventHandler: Send + Sync {
    /// Takes one event. Never blocks.
    fn handle(&self, event: BackendEvent);
}

/// Where a driver sends its events. Sending never blocks, and after the client is gone does
/// nothing. Cheap to clone.
#[derive(Clone)]
pub struct EventSink(Weak<dyn EventHandler>);

impl EventSink {
    /// A sink that delivers to that handler for as long as it lives.
    #[must_use]
    pub fn new(handler: Weak<dyn EventHandler>) -> Self {
        Self(handler)
    }

    /// Sends one event.
    pub fn send(&self, event: BackendEvent) {
        if let Some(handler) = self.0.upgrade() {
            handler.handle(event);
        }
    }
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventSink")
    }
}
