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
    name::{LockName, Namespace},
    request::{Enqueue, Grant, StoreTime},
    secret::Secret,
    token::FencingToken,
};

use crate::{driver::Driver, flaw::Flaw};

const CANARY: &str = "canary-7f3a";

/// A harness for the memory backend, with that flaw or with none.
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
    /// The way to it, which may be a broken one.
    below: Arc<dyn Connect>,
    pub(crate) flaw: Option<Flaw>,
    pub(crate) password: Secret,
    pub(crate) shared: Arc<Mutex<Shared>>,
}

/// What the flawed store keeps beside the sound one.
#[derive(Default)]
pub(crate) struct Shared {
    /// The last grant of each lock: the sound token, the one that was shown, and whether it was
    /// ended by anything but its expiry.
    pub(crate) grants: HashMap<LockName, (FencingToken, FencingToken, bool)>,
    /// Everybody who waits, with the way to them.
    pub(crate) waiting: Vec<(Enqueue, Arc<dyn Backend>, EventSink)>,
    /// Whether the next message is lost.
    pub(crate) loses_next: bool,
    /// Whether it stands still.
    pub(crate) paused: bool,
    /// Whether it was killed and started again.
    pub(crate) restarted: bool,
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

    /// The faults come below the flawed driver, as those of a network would.
    async fn faulty(&self) -> Result<Option<Faulty>, Error> {
        let plan = Plan::new();
        let flawed = Self {
            below: Arc::new(Tap::new(Arc::clone(&self.below), &plan)),
            ..self.clone()
        };
        Ok(Some(Faulty::new(Arc::new(flawed), plan)))
    }

    /// To strike the store stands for breaking the way to it: what is flawed is what is granted then.
    async fn dedicated_store(&self) -> Result<Option<DedicatedStore>, Error> {
        let plan = Plan::new();
        let flawed = Self {
            below: Arc::new(Tap::new(Arc::clone(&self.below), &plan)),
            ..self.clone()
        };
        let servers = Struck(plan, Arc::clone(&self.shared));
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
        if self.flaw == Some(Flaw::NamesAreJoined) {
            context.namespace = Namespace::default();
        }
        Ok(Arc::new(Driver {
            inner: self.below.connect(context).await?,
            store: self.clone(),
            namespace,
            events,
            own: Mutex::default(),
            ids: Mutex::default(),
            turned: AtomicBool::new(false),
            _relay: relay,
        }))
    }
}

/// A store that is away.
struct Struck(Plan, Arc<Mutex<Shared>>);

#[async_trait]
impl Servers for Struck {
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
        Ok(())
    }
}

/// Between the sound driver and the core.
struct Relay {
    store: Flawed,
    to: EventSink,
}

impl EventHandler for Relay {
    fn handle(&self, event: BackendEvent) {
        match (self.store.flaw, event) {
            (Some(Flaw::GrantNeverPushed), BackendEvent::Granted(_))
            | (Some(Flaw::EvictionNotPushed), BackendEvent::Lost { .. }) => {}
            (Some(Flaw::WakeUpLost), BackendEvent::Granted(_)) if self.loses() => {}
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
    fn loses(&self) -> bool {
        std::mem::take(&mut self.store.shared.lock().unwrap().loses_next)
    }
}

/// Says one thing and then another.
pub(crate) fn turn(turned: &AtomicBool) -> bool {
    turned.fetch_xor(true, Ordering::SeqCst)
}
