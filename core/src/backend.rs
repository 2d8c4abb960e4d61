//! The driver trait: the operations that a store must provide.
//!
//! A driver implements one store's protocol and reports facts, each with the moment from which it
//! holds. It does not retry after transport failures, does not decide when to renew or whether a
//! lease is lost, and contains no policy: the core does all of that in the same way for every
//! store.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    capability::Capabilities,
    clock::Clock,
    error::{Error, ErrorKind},
    id::{AttemptId, ClientId},
    loss::LossReason,
    name::{LockName, Namespace},
    request::{
        Downgrade, Downgraded, Enqueue, Enqueued, Evicted, Grant, List, LockState, Page, Remove,
        Removed, Renewal, Renewed,
    },
    token::FencingToken,
};

/// Facts about a backend that are known without I/O. Contains no secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendInfo {
    /// The backend's name in one word: `redis`, `file`.
    pub scheme: &'static str,
    /// The address of the store, such as `file:/var/lib/locks`. The same store always has the same
    /// text. Contains no secrets.
    pub endpoint: String,
    /// Whether a request needs no network, so that it takes less than a millisecond as a rule. Then the
    /// drop of a guard waits for its release (clause R3).
    pub needs_no_network: bool,
}

impl BackendInfo {
    /// Creates the facts.
    #[must_use]
    pub fn new(scheme: &'static str, endpoint: impl Into<String>) -> Self {
        Self {
            scheme,
            endpoint: endpoint.into(),
            needs_no_network: false,
        }
    }

    /// States that a request needs no network. The driver's requests must also work on another runtime
    /// than that of the client, and while the client's runtime stands still.
    #[must_use]
    pub const fn without_network(mut self) -> Self {
        self.needs_no_network = true;
        self
    }
}

/// One connected client of a store, as the core sees it.
///
/// # Requirements for every method
///
/// - **Any future may be dropped at any await point.** The core then calls [`remove`](Self::remove)
///   with `outcome_known = false`. Before sending anything, store whatever is needed to find the
///   entry again.
/// - **Every request is idempotent by attempt id** (A2): the core may repeat and reorder requests.
/// - `proved_from` is `clock.now()`, read before the request is handed to the store's client
///   library (D1). When in doubt, use an earlier moment.
/// - An error that [is without effect](crate::error::Error::is_without_effect) guarantees that the
///   request changed nothing and never will. If a request was sent and not answered, the kind is
///   [`OutcomeUnknown`](crate::error::ErrorKind::OutcomeUnknown).
/// - The [`StoreTime`](crate::request::StoreTime) of a pushed grant is strictly later than that of
///   every earlier "still waiting" answer to the same attempt.
/// - A driver keeps its record of an attempt until `remove` is answered, or until `enqueue` is
///   answered with `Busy`, `Gone` or an error without effect. The record outlives the loss of the
///   attempt's session.
/// - The store's client library must not resend an unanswered enqueue on its own. Otherwise every
///   removal must fence, because the store may carry out a copy after the removal.
/// - No method retries after a transport failure or waits for the lock. All methods may be called
///   concurrently.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Returns facts without I/O and without secrets.
    fn info(&self) -> BackendInfo;

    /// Returns what this backend can do, as far as it is known now. The core calls this at connect
    /// and again after [`BackendEvent::Reconnected`].
    async fn capabilities(&self) -> Result<Capabilities, Error>;

    /// Puts an attempt into a lock's queue, in one round trip.
    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error>;

    /// Renews grants and reports waiters, and sends one answer for each entry to `answers`. The
    /// core decides when to renew and forms the batches; the driver sends as few requests as the
    /// store allows.
    ///
    /// The answer is `Proved` only if the store holds this attempt's grant with this token. A
    /// driver that splits a batch sends the answers of each part as soon as they arrive, so that a
    /// slow part (a server that is down) does not delay the others. An entry without an answer
    /// counts as [`Renewed::Unknown`] when this method returns, or when the core abandons it after
    /// a time limit. The core may call this method again before an earlier call has returned.
    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers);

    /// Turns an exclusive grant into a shared one, in one step (M4). Idempotent; needed only by a backend
    /// that [offers](crate::mode::Modes::shared) shared locks. The default refuses.
    async fn downgrade(&self, _request: Downgrade) -> Result<Downgraded, Error> {
        Err(Error::new(ErrorKind::Unsupported, "downgrading")
            .with_detail("this backend has no shared locks"))
    }

    /// Removes one attempt, whether it holds or waits. If the outcome of its enqueue is unknown,
    /// also fences the attempt. Idempotent; changes no other attempt's entry. An error whose kind
    /// is without effect means that the entry still exists.
    async fn remove(&self, request: Remove) -> Result<Removed, Error>;

    /// Returns the state of a lock and its queue. Changes nothing.
    async fn inspect(&self, name: &LockName) -> Result<LockState, Error>;

    /// Returns one page of the locks in the namespace that have a holder or waiters.
    async fn list(&self, request: List) -> Result<Page, Error>;

    /// Revokes the grant with this token, and no other grant.
    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error>;

    /// Deletes what the store keeps of a free lock, such as its last token, and returns the longest
    /// time for which anything of it may remain; `None` means forever. Deletes nothing of a lock that
    /// has a holder or waiters. The caller guarantees that no client uses the name at the same time
    /// or later. The default deletes nothing.
    async fn discard(&self, _name: &LockName) -> Result<Option<Duration>, Error> {
        Ok(self.capabilities().await?.residue)
    }

    /// Closes the connection and stops the driver's tasks. The core calls no method after it.
    async fn close(&self);
}

/// Connects clients to one store. A connector is configured and validated, but has done no I/O.
#[async_trait]
pub trait Connect: fmt::Debug + Send + Sync + 'static {
    /// Returns facts without I/O and without secrets.
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

/// The values that the core passes to a driver at connect.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Context {
    /// The namespace of every lock name in later requests.
    pub namespace: Namespace,
    /// The identity of this client.
    pub client: ClientId,
    /// The sink for events about any attempt, at any time.
    pub events: EventSink,
    /// The clock for `proved_from`. A driver must not use any other clock for it.
    pub clock: Arc<dyn Clock>,
    /// Every token must be greater than this (T1).
    pub token_floor: FencingToken,
    /// The core abandons a request after this time. A call of [`renew`](Backend::renew) counts as
    /// failed after it, and is dropped only after two thirds of the longest TTL in it, because a
    /// late answer still proves something. A driver may use it for its own time-outs.
    pub request_timeout: Duration,
    /// Whether this client acquires nothing and only inspects, lists and evicts. Connecting such a
    /// client must create nothing in the store, and needs no subscription to events.
    pub read_only: bool,
}

impl Context {
    /// Creates a context with the default namespace, no token floor and a request time-out of five
    /// seconds.
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

    /// Sets whether this client acquires nothing.
    #[must_use]
    pub const fn with_read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets the time-out of a request.
    #[must_use]
    pub const fn with_request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }
}

/// An event that a driver reports without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendEvent {
    /// An attempt that was waiting is now the holder.
    Granted(Grant),
    /// There is definite evidence that an attempt's entry is gone.
    Lost {
        /// The attempt.
        attempt: AttemptId,
        /// The reason.
        reason: LossReason,
    },
    /// Something changed ahead of a waiter, or in the state of a grant, so the driver asks the core
    /// to recheck the attempt. This is for stores that announce changes instead of grants. The core
    /// renews or reports the attempt with a request that it sends after this event.
    Recheck {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The connection is back after a gap in which messages may have been lost. The core renews and
    /// reports all attempts at once, and reads the capabilities again.
    Reconnected,
    /// The connection is lost. This alone ends no grant.
    Suspect,
}

/// Receives the answers to one batch of renewals, in any order. Cheap to clone.
#[derive(Clone)]
pub struct RenewalAnswers {
    on_answer: Arc<dyn Fn(usize, Renewed) + Send + Sync>,
    is_wanted: Arc<dyn Fn(usize) -> bool + Send + Sync>,
}

impl RenewalAnswers {
    /// Creates a receiver that calls `on_answer` with the index of an entry and its answer.
    #[must_use]
    pub fn new(on_answer: impl Fn(usize, Renewed) + Send + Sync + 'static) -> Self {
        Self {
            on_answer: Arc::new(on_answer),
            is_wanted: Arc::new(|_| true),
        }
    }

    /// Sets the function that tells whether the entry with an index is still wanted.
    #[must_use]
    pub fn wanted_while(
        mut self,
        is_wanted: impl Fn(usize) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.is_wanted = Arc::new(is_wanted);
        self
    }

    /// Returns whether the entry with this index is still wanted: its attempt is neither being
    /// released nor at its end. A driver that needs several requests for an entry asks before each
    /// but the first, and sends none for an entry that is not wanted (clause K3).
    #[must_use]
    pub fn is_wanted(&self, index: usize) -> bool {
        (self.is_wanted)(index)
    }

    /// Sends the answer to the entry with this index. Never blocks. Only the first answer to an
    /// entry counts, and only while the call of [`Backend::renew`] has not ended.
    pub fn send(&self, index: usize, answer: Renewed) {
        (self.on_answer)(index, answer);
    }

    /// Runs a renewal of `count` entries and returns the answers in the order of the entries, for
    /// callers that use a driver without the core's client.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the renewal and its answers.
    pub async fn collect<F: Future<Output = ()>>(
        count: usize,
        renew: impl FnOnce(Self) -> F,
    ) -> Vec<Renewed> {
        let collected = Arc::new(Mutex::new(vec![None; count]));
        let shared = Arc::clone(&collected);
        renew(Self::new(move |index, answer| {
            let mut collected = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = collected.get_mut(index) {
                slot.get_or_insert(answer);
            }
        }))
        .await;
        let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = std::mem::take(&mut *collected).into_iter();
        answers
            .map(|answer| answer.unwrap_or_else(Renewed::unanswered))
            .collect()
    }
}

impl fmt::Debug for RenewalAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RenewalAnswers")
    }
}

/// Handles events. The core's client implements it.
pub trait EventHandler: Send + Sync {
    /// Handles one event. Never blocks.
    fn handle(&self, event: BackendEvent);
}

/// The sink to which a driver sends its events. Sending never blocks. After the client is gone,
/// sending does nothing. Cheap to clone.
#[derive(Clone)]
pub struct EventSink(Weak<dyn EventHandler>);

impl EventSink {
    /// Creates a sink that delivers to `handler` as long as the handler exists.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn k4_first_answer_counts_and_a_missing_one_is_unknown() {
        let renewed = RenewalAnswers::collect(3, |answers| async move {
            let later = answers.clone();
            later.send(2, Renewed::Gone(LossReason::Evicted));
            answers.send(0, Renewed::Gone(LossReason::Expired));
            answers.send(0, Renewed::Gone(LossReason::Evicted));
            answers.send(3, Renewed::Gone(LossReason::Evicted));
        });
        let renewed = renewed.await;
        assert!(matches!(
            renewed[..],
            [
                Renewed::Gone(LossReason::Expired),
                Renewed::Unknown(_),
                Renewed::Gone(LossReason::Evicted)
            ]
        ));
    }
}
