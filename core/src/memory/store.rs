//! The store that the clients of one process share, with hooks for injecting faults in tests.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

use super::backend::MemoryBackend;
use crate::{
    backend::{Backend, BackendEvent, BackendInfo, Connect, Context, EventSink},
    capability::{
        Capabilities, Durability, Evidence, LossEvidence, TakeoverBound, TtlRange, TtlScope,
        WaitMode,
    },
    clock::{Clock, SystemClock},
    error::Error,
    id::ClientId,
    mode::Modes,
    name::{LockName, Namespace},
    queue::{Answer, ClockId, Event, Notice, NoticeKind, Now, Queue, Stamp, Step},
    request::{Grant, StoreTime},
    token::FencingToken,
};

/// A fault of the store that affects all its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InjectedFault {
    /// No fault.
    #[default]
    None,
    /// Requests hang without effect until the fault is over.
    Hang,
    /// Requests are executed, and their answers are lost.
    LoseReplies,
    /// Requests fail without effect, and messages are lost.
    Unreachable,
}

/// An in-process store. Clones share the same store.
#[derive(Clone)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<StoreState>,
    healed: tokio::sync::Notify,
}

/// The whole state of the store.
#[derive(Default)]
pub(super) struct StoreState {
    spaces: HashMap<Namespace, BTreeMap<LockName, Queue>>,
    clients: HashMap<ClientId, EventSink>,
    /// Number of events so far: the store's logical time.
    time: u64,
    /// The highest token of any lock. New tokens are greater, so that they also increase for a name
    /// whose state was deleted (T1).
    last_token: u64,
    fault: InjectedFault,
}

/// The outcome of an event, with the time at which it was applied.
pub(super) struct Applied {
    pub(super) step: Step,
    pub(super) as_of: StoreTime,
}

impl MemoryStore {
    /// Creates an empty store that uses the system clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// Creates an empty store that uses `clock` for expiry. Its clients must use the same clock.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared {
            clock,
            state: Mutex::default(),
            healed: tokio::sync::Notify::new(),
        }))
    }

    /// Revokes the holder's grant, like an operator's eviction. The guard learns of it in the same
    /// way as on any other store. Returns the revoked token.
    pub fn lose(&self, namespace: &Namespace, name: &LockName) -> Option<FencingToken> {
        let token = self.token(namespace, name)?;
        let applied = self.apply(namespace, name, 0, Event::Evict { token })?;
        (applied.step.answer == Answer::Evicted).then_some(token)
    }

    /// Returns the token of the lock's grant.
    #[must_use]
    pub fn token(&self, namespace: &Namespace, name: &LockName) -> Option<FencingToken> {
        let state = self.state();
        let holder = state.spaces.get(namespace)?.get(name)?.holder()?;
        holder.grant.map(|grant| grant.token)
    }

    /// Deletes the lock's state without sending any notice, like an operator who uses the store's
    /// own tools. Returns whether there was any state.
    pub fn delete_state(&self, namespace: &Namespace, name: &LockName) -> bool {
        let mut state = self.state();
        state
            .spaces
            .get_mut(namespace)
            .is_some_and(|locks| locks.remove(name).is_some())
    }

    /// Returns the number of locks in the namespace that have state.
    #[must_use]
    pub fn residue(&self, namespace: &Namespace) -> usize {
        self.read(namespace, |locks, now| {
            locks.values().filter(|queue| !queue.is_blank(now)).count()
        })
    }

    /// Injects a fault from now on. When the store becomes reachable again, its clients receive an
    /// event, as a client library reports a reconnection.
    pub fn set_fault(&self, fault: InjectedFault) {
        let (before, clients) = {
            let mut state = self.state();
            let before = std::mem::replace(&mut state.fault, fault);
            (before, state.clients.values().cloned().collect::<Vec<_>>())
        };
        let event = match (before, fault) {
            (InjectedFault::Unreachable, InjectedFault::Unreachable) => None,
            (_, InjectedFault::Unreachable) => Some(BackendEvent::Suspect),
            (InjectedFault::Unreachable, _) => Some(BackendEvent::Reconnected),
            _ => None,
        };
        if let Some(event) = event {
            for client in clients {
                client.send(event.clone());
            }
        }
        self.0.healed.notify_waiters();
    }

    /// Applies one event to one lock. Returns `None` if the lock has no state and the event creates
    /// none.
    pub(super) fn apply(
        &self,
        namespace: &Namespace,
        name: &LockName,
        token_floor: u64,
        event: Event,
    ) -> Option<Applied> {
        let mut state = self.state();
        state.time += 1;
        let now = self.now(&state, token_floor);
        let as_of = StoreTime::new(state.time);
        let creates = matches!(
            event,
            Event::Enqueue { .. } | Event::Remove { fence: Some(_), .. }
        );
        if creates && !state.spaces.contains_key(namespace) {
            state.spaces.insert(namespace.clone(), BTreeMap::new());
        }
        let locks = state.spaces.get_mut(namespace)?;
        if creates && !locks.contains_key(name) {
            locks.insert(name.clone(), Queue::new());
        }
        let queue = locks.get_mut(name)?;
        let step = queue.on(event, &now);
        let last_token = queue.last_token().get();
        if queue.is_blank(&now) {
            locks.remove(name);
        }
        state.last_token = state.last_token.max(last_token);
        let messages = Self::messages(&state, &step.notices, as_of);
        drop(state);
        // Sent after the mutex is released, because a handler may lock its own mutex.
        for (client, event) in messages {
            client.send(event);
        }
        Some(Applied { step, as_of })
    }

    fn messages(
        state: &StoreState,
        notices: &[Notice],
        as_of: StoreTime,
    ) -> Vec<(EventSink, BackendEvent)> {
        if state.fault != InjectedFault::None {
            return Vec::new();
        }
        let message = |notice: &Notice| {
            let client = state.clients.get(&notice.client)?.clone();
            let attempt = notice.attempt;
            let event = match notice.kind {
                NoticeKind::Granted { token, floor, ttl } => {
                    let grant = Grant::pushed(attempt, token, ttl, as_of);
                    BackendEvent::Granted(grant.with_floor(floor))
                }
                NoticeKind::Lost(reason) => BackendEvent::Lost { attempt, reason },
            };
            Some((client, event))
        };
        notices.iter().filter_map(message).collect()
    }

    /// Calls `read` with the locks of a namespace.
    pub(super) fn read<T>(
        &self,
        namespace: &Namespace,
        read: impl FnOnce(&BTreeMap<LockName, Queue>, &Now) -> T,
    ) -> T {
        let state = self.state();
        let now = self.now(&state, 0);
        read(
            state.spaces.get(namespace).unwrap_or(&BTreeMap::new()),
            &now,
        )
    }

    fn now(&self, state: &StoreState, token_floor: u64) -> Now {
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Now::new(
            Stamp::new(ClockId::new(0), self.0.clock.now().since_origin()),
            u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
            (state.last_token + 1).max(token_floor),
        )
    }

    pub(super) fn fault(&self) -> InjectedFault {
        self.state().fault
    }

    /// Waits until the store does not hang.
    pub(super) async fn wait_unless_hanging(&self) {
        loop {
            let healed = self.0.healed.notified();
            tokio::pin!(healed);
            healed.as_mut().enable();
            if self.fault() != InjectedFault::Hang {
                return;
            }
            healed.await;
        }
    }

    pub(super) fn disconnect(&self, client: ClientId) {
        self.state().clients.remove(&client);
    }

    fn state(&self) -> MutexGuard<'_, StoreState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn endpoint(&self) -> BackendInfo {
        BackendInfo::new("memory", format!("memory:{:p}", Arc::as_ptr(&self.0)))
    }

    pub(super) const CAPABILITIES: Capabilities = Capabilities::new(
        Durability::Volatile,
        WaitMode::Push,
        LossEvidence::new(Evidence::Push, Evidence::NextRenewal),
        TtlRange::new(
            Duration::from_millis(10),
            Duration::from_secs(365 * 24 * 3600),
            Duration::from_nanos(1),
            TtlScope::Lock,
        ),
        // The first waiter reports when the holder's grant expires. Half of its TTL and the
        // constant allow for a repeated report.
        TakeoverBound::new(100, 50, Duration::from_millis(500)),
    )
    .with_residue(Some(Duration::ZERO))
    .with_modes(Modes::ALL);
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryStore")
            .field(&self.endpoint().endpoint)
            .finish()
    }
}

#[async_trait]
impl Connect for MemoryStore {
    fn info(&self) -> BackendInfo {
        self.endpoint()
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        self.state()
            .clients
            .insert(context.client, context.events.clone());
        Ok(Arc::new(MemoryBackend::new(self.clone(), context)))
    }
}
