//! The memory backend with a flaw, and its harness.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use tenure_conformance::{
    Env, Harness,
    fault::{Fault, Faulty, Line},
    servers::{DedicatedStore, ServerAction, Servers},
    wrap::{Plan, Tap},
};
use tenure_core::{
    backend::{Backend, BackendEvent, BackendInfo, Connect, Context, EventHandler, EventSink},
    error::Error,
    loss::LossReason,
    memory::MemoryStore,
    mode::Mode,
    name::{LockName, Namespace},
    request::{Enqueue, Grant, LockState, StoreTime},
    secret::Secret,
    token::FencingToken,
};

use crate::{driver::Driver, flaw::Flaw, two_servers::TwoServers};

const CANARY: &str = "canary-7f3a";

/// A harness for the memory backend with a flaw or without.
pub(crate) struct Broken(pub(crate) Option<Flaw>);

#[async_trait]
impl Harness for Broken {
    fn name(&self) -> &str {
        "a broken memory backend"
    }

    async fn start(&self) -> Result<Arc<dyn Env>, Error> {
        let inner = MemoryStore::new();
        Ok(Arc::new(Flawed {
            below: Arc::new(inner.clone()),
            inner,
            flaw: self.0,
            password: Secret::new(CANARY),
            shared: Arc::default(),
        }))
    }
}

#[derive(Clone)]
pub(crate) struct Flawed {
    pub(crate) inner: MemoryStore,
    /// The connector, which may inject faults.
    below: Arc<dyn Connect>,
    pub(crate) flaw: Option<Flaw>,
    pub(crate) password: Secret,
    pub(crate) shared: Arc<Mutex<Shared>>,
}

/// The state of the flawed store in addition to the memory store.
#[derive(Default)]
pub(crate) struct Shared {
    /// The last grant of each lock: the real token, the reported token, and whether it ended before its
    /// expiry.
    pub(crate) grants: HashMap<LockName, (FencingToken, FencingToken, bool)>,
    /// All waiters with their event sinks.
    pub(crate) waiting: Vec<(Enqueue, Arc<dyn Backend>, EventSink)>,
    /// Whether the next message is lost.
    pub(crate) loses_next: bool,
    /// What the store has shown of each lock.
    pub(crate) shown: HashMap<LockName, LockState>,
    /// Whether the store is stopped.
    pub(crate) paused: bool,
    /// Whether the store was restarted.
    pub(crate) restarted: bool,
    /// The number of leaders that were replaced.
    pub(crate) replaced: u32,
    /// Whether the former leader is cut off from the others.
    pub(crate) partitioned: bool,
}

impl fmt::Debug for Flawed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flaw {
            Some(Flaw::LeaksSecret) => write!(f, "Flawed {{ {} }}", self.password.expose()),
            _ => write!(f, "Flawed {{ {:?} }}", self.password),
        }
    }
}

#[async_trait]
impl Env for Flawed {
    fn connector(&self) -> Arc<dyn Connect> {
        Arc::new(self.clone())
    }

    fn secrets(&self) -> Vec<String> {
        vec![CANARY.to_owned()]
    }

    /// The faults apply below the flawed driver, like faults of a network.
    async fn faulty(&self) -> Result<Option<Faulty>, Error> {
        let stays = self.flaw == Some(Flaw::StaysWithTheSlow);
        let (servers, lines) = TwoServers::new(&self.below, stays);
        let flawed = Self {
            below: Arc::new(servers),
            ..self.clone()
        };
        Ok(Some(Faulty::new(Arc::new(flawed), lines)))
    }

    /// Actions on servers are simulated by faults of the connections to the store.
    async fn dedicated_store(&self) -> Result<Option<DedicatedStore>, Error> {
        let plan = Plan::new();
        let flawed = Self {
            below: Arc::new(Tap::new(Arc::clone(&self.below), &plan)),
            ..self.clone()
        };
        let servers = SimulatedServers(plan, Arc::clone(&self.shared));
        Ok(Some(DedicatedStore::new(Arc::new(flawed), servers)))
    }

    async fn delete_state(&self, name: &LockName) -> Result<bool, Error> {
        self.inner.delete_state(&Namespace::default(), name);
        Ok(true)
    }

    async fn residue(&self) -> Result<Option<usize>, Error> {
        Ok(Some(self.inner.residue(&Namespace::default())))
    }
}

#[async_trait]
impl Connect for Flawed {
    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    async fn connect(&self, mut context: Context) -> Result<Arc<dyn Backend>, Error> {
        let relay: Arc<dyn EventHandler> = Arc::new(Relay {
            store: self.clone(),
            to: context.events.clone(),
        });
        let events = context.events.clone();
        context.events = EventSink::new(Arc::downgrade(&relay));
        let namespace = context.namespace.clone();
        let request_timeout = context.request_timeout;
        let replaced = self.shared.lock().unwrap().replaced;
        if self.flaw == Some(Flaw::NamesAreJoined) {
            context.namespace = Namespace::default();
        }
        Ok(Arc::new(Driver {
            inner: self.below.connect(context).await?,
            store: self.clone(),
            namespace,
            events,
            request_timeout,
            replaced,
            own: Mutex::default(),
            ids: Mutex::default(),
            refused: Mutex::default(),
            turned: AtomicBool::new(false),
            _relay: relay,
        }))
    }
}

/// The simulated servers.
struct SimulatedServers(Plan, Arc<Mutex<Shared>>);

#[async_trait]
impl Servers for SimulatedServers {
    async fn apply(&self, action: ServerAction) -> Result<(), Error> {
        let Self(plan, shared) = self;
        Line::set(
            plan,
            match action {
                ServerAction::Kill => Fault::Refuse,
                ServerAction::Pause => Fault::BlackHole,
                _ => Fault::None,
            },
        );
        let mut shared = shared.lock().unwrap();
        shared.paused = action == ServerAction::Pause;
        shared.restarted |= action == ServerAction::Start;
        let replaces = matches!(action, ServerAction::FailOver | ServerAction::Partition);
        shared.replaced += u32::from(replaces);
        shared.partitioned = action == ServerAction::Partition;
        Ok(())
    }

    fn supports(&self, _: ServerAction) -> bool {
        true
    }
}

/// Applies flaws to messages between the driver and the core.
struct Relay {
    store: Flawed,
    to: EventSink,
}

impl EventHandler for Relay {
    fn handle(&self, event: BackendEvent) {
        match (self.store.flaw, event) {
            (
                Some(Flaw::GrantNeverPushed | Flaw::LateGrantThrownAway),
                BackendEvent::Granted(_),
            )
            | (Some(Flaw::EvictionNotPushed), BackendEvent::Lost { .. }) => {}
            // A leader that is cut off learns of no loss.
            (Some(Flaw::BelievesTheFormerLeader), BackendEvent::Lost { .. })
                if self.store.shared.lock().unwrap().partitioned => {}
            (Some(Flaw::WakeUpLost), BackendEvent::Granted(_)) if self.loses() => {}
            (Some(Flaw::OnlyTheFirstIsWoken), BackendEvent::Granted(grant))
                if grant.floor != grant.token => {}
            (Some(Flaw::PermitsNotPushed), BackendEvent::Granted(grant))
                if self.waits_for_permits(&grant) => {}
            (Some(Flaw::WrongReason), BackendEvent::Lost { attempt, .. }) => {
                let reason = LossReason::SessionLost;
                self.to.send(BackendEvent::Lost { attempt, reason });
            }
            (Some(Flaw::TokensEndWithTheServer), BackendEvent::Granted(mut grant))
                if self.store.shared.lock().unwrap().restarted =>
            {
                grant.token = FencingToken::new(1);
                self.to.send(BackendEvent::Granted(grant));
            }
            (Some(Flaw::PushFromBefore), BackendEvent::Granted(mut grant)) => {
                grant.as_of = StoreTime::new(0);
                self.to.send(BackendEvent::Granted(grant));
            }
            (Some(Flaw::ReleaseWakesAll), BackendEvent::Granted(grant)) => {
                let waiting = self.store.shared.lock().unwrap().waiting.clone();
                for (request, _, events) in waiting {
                    let copy =
                        Grant::pushed(request.attempt, grant.token, request.ttl, grant.as_of);
                    events.send(BackendEvent::Granted(copy));
                }
                self.to.send(BackendEvent::Granted(grant));
            }
            (_, event) => self.to.send(event),
        }
    }
}

impl Relay {
    fn waits_for_permits(&self, grant: &Grant) -> bool {
        let shared = self.store.shared.lock().unwrap();
        let mut waiting = shared.waiting.iter();
        waiting.any(|(request, ..)| {
            request.attempt == grant.attempt && matches!(request.mode, Mode::Permits { .. })
        })
    }

    fn loses(&self) -> bool {
        std::mem::take(&mut self.store.shared.lock().unwrap().loses_next)
    }
}

/// Returns `false` and `true` alternately.
pub(crate) fn turn(turned: &AtomicBool) -> bool {
    turned.fetch_xor(true, Ordering::SeqCst)
}
