//! The store that the clients of one process share, and the hooks by which a test disturbs it.

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
    name::{LockName, Namespace},
    queue::{Answer, ClockId, Event, Notice, NoticeKind, Now, Queue, Stamp, Step},
    request::{Grant, StoreTime},
    token::FencingToken,
};

/// How the store misbehaves towards all of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InjectedFault {
    /// It does not.
    #[default]
    None,
    /// Requests get no answer and have no effect; they hang until the fault is over.
    Hang,
    /// Requests are carried out, and their answers are lost.
    LoseReplies,
    /// Requests are refused, and messages are lost.
    Unreachable,
}

/// A store inside of the process. Clones are the same store.
#[derive(Clone)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<StoreState>,
    healed: tokio::sync::Notify,
}

/// All that the store holds.
#[derive(Default)]
pub(super) struct StoreState {
    spaces: HashMap<Namespace, BTreeMap<LockName, Queue>>,
    clients: HashMap<ClientId, EventSink>,
    /// Counts the events: the store's own time.
    time: u64,
    /// The highest token of any lock. New ones are above it, so that they rise for a name whose
    /// state was deleted too (T1).
    last_token: u64,
    fault: InjectedFault,
}

/// What came of an event, with the time at which it was taken.
pub(super) struct Applied {
    pub(super) step: Step,
    pub(super) as_of: StoreTime,
}

impl MemoryStore {
    /// An empty store on the system's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty store whose expiry goes by that clock. Give the same clock to its clients.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared {
            clock,
            state: Mutex::default(),
            healed: tokio::sync::Notify::new(),
        }))
    }

    /// Takes the lock away from whoever holds it, as an operator's eviction does. Its guard learns
    /// of it through the same path as with any other store. Returns the token that it had.
    pub fn lose(&self, namespace: &Namespace, name: &LockName) -> Option<FencingToken> {
        let token = self.token(namespace, name)?;
        let applied = self.apply(namespace, name, 0, Event::Evict { token })?;
        (applied.step.answer == Answer::Evicted).then_some(token)
    }

    /// The token of the grant that the store holds for that lock.
    #[must_use]
    pub fn token(&self, namespace: &Namespace, name: &LockName) -> Option<FencingToken> {
        let state = self.state();
        let holder = state.spaces.get(namespace)?.get(name)?.holder()?;
        holder.grant.map(|grant| grant.token)
    }

    /// Deletes all that the store holds for that lock, without telling anybody, as somebody with
    /// the store's own tools might. Returns whether there was anything.
    pub fn delete_state(&self, namespace: &Namespace, name: &LockName) -> bool {
        let mut state = self.state();
        state
            .spaces
            .get_mut(namespace)
            .is_some_and(|locks| locks.remove(name).is_some())
    }

    /// How many locks have any state in that namespace.
    #[must_use]
    pub fn residue(&self, namespace: &Namespace) -> usize {
        self.read(namespace, |locks, now| {
            locks.values().filter(|queue| !queue.is_blank(now)).count()
        })
    }

    /// Makes the store misbehave from now on. When it was not reachable and is again, its clients
    /// are told so, as a client library tells of a reconnection.
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

    /// Takes one event for one lock. `None` if it is about a lock without state and changes
    /// nothing.
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
        // Not under the mutex: a handler may take its own.
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
                NoticeKind::Granted { token, ttl } => {
                    BackendEvent::Granted(Grant::pushed(attempt, token, ttl, as_of))
                }
                NoticeKind::Lost(reason) => BackendEvent::Lost { attempt, reason },
            };
            Some((client, event))
        };
        notices.iter().filter_map(message).collect()
    }

    /// Reads the locks of a namespace.
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

    /// Returns once the store does not hang.
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
        // The first in line reports when the holder's grant runs out; half of its TTL and the
        // constant are for a report that has to be repeated.
        TakeoverBound::new(100, 50, Duration::from_millis(500)),
    )
    .with_residue(Some(Duration::ZERO));
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
