//! The memory backend with a flaw, and its harness.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tenure_conformance::{Env, Harness};
use tenure_core::{
    backend::{Backend, BackendEvent, BackendInfo, Connect, Context, EventHandler, EventSink},
    capability::{Capabilities, TtlScope},
    error::Error,
    id::AttemptId,
    memory::MemoryStore,
    name::LockName,
    request::{
        Enqueue, Enqueued, Evicted, Grant, List, LockState, Owner, Page, Remove, Removed, Renewal,
        Renewed,
    },
    secret::Secret,
    token::FencingToken,
};

use crate::flaw::Flaw;

const CANARY: &str = "canary-7f3a";

/// A harness for the memory backend, with that flaw or with none.
pub(crate) struct Broken(pub(crate) Option<Flaw>);

#[async_trait]
impl Harness for Broken {
    fn name(&self) -> &str {
        "a broken memory backend"
    }

    async fn start(&self) -> Result<Arc<dyn Env>, Error> {
        Ok(Arc::new(Flawed {
            inner: MemoryStore::new(),
            flaw: self.0,
            password: Secret::new(CANARY),
            shared: Arc::default(),
        }))
    }
}

#[derive(Clone)]
struct Flawed {
    inner: MemoryStore,
    flaw: Option<Flaw>,
    password: Secret,
    shared: Arc<Mutex<Shared>>,
}

/// What the flawed store keeps beside the sound one.
#[derive(Default)]
struct Shared {
    /// The last grant of each lock: the sound token, the one that was shown, and whether it was
    /// ended by anything but its expiry.
    grants: HashMap<LockName, (FencingToken, FencingToken, bool)>,
    /// Everybody who waits, with the way to them.
    waiting: Vec<(Enqueue, Arc<dyn Backend>, EventSink)>,
}

impl fmt::Debug for Flawed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flaw {
            Some(Flaw::LeaksSecret) => write!(f, "Flawed {{ {} }}", self.password.expose()),
            _ => write!(f, "Flawed {{ {:?} }}", self.password),
        }
    }
}

impl Env for Flawed {
    fn connector(&self) -> Arc<dyn Connect> {
        Arc::new(self.clone())
    }

    fn secrets(&self) -> Vec<String> {
        vec![CANARY.to_owned()]
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
        Ok(Arc::new(Driver {
            inner: self.inner.connect(context).await?,
            store: self.clone(),
            events,
            own: Mutex::default(),
            _relay: relay,
        }))
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

struct Driver {
    inner: Arc<dyn Backend>,
    store: Flawed,
    events: EventSink,
    /// The attempts of this client that were granted, with their grants.
    own: Mutex<HashMap<AttemptId, Grant>>,
    _relay: Arc<dyn EventHandler>,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

impl Driver {
    fn has(&self, flaw: Flaw) -> bool {
        self.store.flaw == Some(flaw)
    }

    /// The name under which the flawed store keeps a lock.
    fn name(&self, name: &LockName, attempt: Option<AttemptId>) -> LockName {
        let text = match attempt {
            _ if self.has(Flaw::NamesFoldCase) => name.as_str().to_lowercase(),
            Some(attempt) if self.has(Flaw::NoExclusion) => format!("{name}{attempt}"),
            _ => return name.clone(),
        };
        LockName::new(text).unwrap_or_else(|_| name.clone())
    }

    /// What a flawed store makes of a grant.
    fn granted(&self, name: &LockName, mut grant: Grant) -> Grant {
        if self.has(Flaw::HalfTheTtl) {
            grant.ttl *= 2;
        }
        if self.has(Flaw::TokenRepeatsAfterExpiry) {
            let mut shared = self.store.shared.lock().unwrap();
            let last = shared.grants.get(name).copied();
            let shown = match last {
                Some((sound, shown, _)) if sound == grant.token => shown,
                Some((_, shown, false)) => shown,
                _ => grant.token,
            };
            let ended = last.is_some_and(|(sound, _, ended)| sound == grant.token && ended);
            shared
                .grants
                .insert(name.clone(), (grant.token, shown, ended));
            grant.token = shown;
        }
        self.own
            .lock()
            .unwrap()
            .insert(grant.attempt, grant.clone());
        grant
    }

    fn ended(&self, name: &LockName) {
        if let Some(grant) = self.store.shared.lock().unwrap().grants.get_mut(name) {
            grant.2 = true;
        }
    }

    async fn cut_in(&self, request: &Enqueue) {
        let last = {
            let mut shared = self.store.shared.lock().unwrap();
            let waiting = shared.waiting.iter();
            let last = waiting
                .rev()
                .find(|(other, ..)| other.name == request.name)
                .cloned();
            let own = (
                request.clone(),
                Arc::clone(&self.inner),
                self.events.clone(),
            );
            shared.waiting.push(own);
            last
        };
        if let (true, Some((other, backend, _))) = (self.has(Flaw::WaiterCutsIn), last) {
            let remove = Remove::new(other.name.clone(), other.attempt, other.ttl, true);
            let _ = backend.remove(remove).await;
            let _ = backend.enqueue(other).await;
        }
    }

    async fn renewed(&self, entry: &Renewal, answer: Renewed) -> Renewed {
        match answer {
            Renewed::Granted(mut grant) if self.has(Flaw::TokenChangesOnRenewal) => {
                grant.token = FencingToken::new(grant.token.get() + 1);
                Renewed::Granted(grant)
            }
            Renewed::Granted(grant) => Renewed::Granted(self.granted(&entry.name, grant)),
            Renewed::Gone(reason) => {
                let revives = match entry.token {
                    Some(_) => self.has(Flaw::RenewalRevivesExpired),
                    None => self.has(Flaw::ReportCreates),
                };
                if self.has(Flaw::RenewalExtendsAnothers) {
                    self.renew_holder(&entry.name).await;
                }
                if !revives {
                    return Renewed::Gone(reason);
                }
                let owner = Owner::new("", "", 0);
                let again = Enqueue::new(entry.name.clone(), entry.attempt, owner, entry.ttl, true);
                match self.inner.enqueue(again).await {
                    Ok(Enqueued::Granted(grant)) => Renewed::Granted(grant),
                    Ok(Enqueued::Waiting(waiting)) => Renewed::Waiting(waiting),
                    _ => Renewed::Gone(reason),
                }
            }
            answer => answer,
        }
    }

    async fn renew_holder(&self, name: &LockName) {
        let state = self.inner.inspect(name).await.unwrap();
        if let Some((attempt, ttl)) = state.holder.and_then(|h| Some((h.attempt?, h.ttl?))) {
            let renewal = Renewal::new(name.clone(), attempt, ttl, None);
            self.inner.renew(vec![renewal]).await;
        }
    }

    async fn evict_holder(&self, name: &LockName) -> Result<Evicted, Error> {
        let state = self.inner.inspect(name).await?;
        match state.holder.and_then(|holder| holder.token) {
            Some(token) => self.inner.evict(name, token).await,
            None => Ok(Evicted::NotHeld(None)),
        }
    }
}

#[async_trait]
impl Backend for Driver {
    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        let mut declared = self.inner.capabilities().await?;
        if self.has(Flaw::NoFencing) {
            declared.ttl.scope = TtlScope::Pooled;
        }
        Ok(declared)
    }

    async fn enqueue(&self, mut request: Enqueue) -> Result<Enqueued, Error> {
        let wait = request.wait;
        request.name = self.name(&request.name, Some(request.attempt));
        if self.has(Flaw::HalfTheTtl) {
            request.ttl /= 2;
        }
        request.wait |= self.has(Flaw::BusyLeavesAnEntry);
        let (name, attempt) = (request.name.clone(), request.attempt);
        match self.inner.enqueue(request.clone()).await? {
            Enqueued::Granted(grant) => Ok(Enqueued::Granted(self.granted(&name, grant))),
            Enqueued::Busy(holder) if self.has(Flaw::Reentrant) => {
                let own = self.own.lock().unwrap();
                Ok(match holder.attempt.and_then(|held| own.get(&held)) {
                    Some(grant) => {
                        let mut again = grant.clone();
                        again.attempt = attempt;
                        Enqueued::Granted(again)
                    }
                    None => Enqueued::Busy(holder),
                })
            }
            Enqueued::Waiting(waiting) if wait => {
                self.cut_in(&request).await;
                Ok(Enqueued::Waiting(waiting))
            }
            Enqueued::Waiting(waiting) => Ok(Enqueued::Busy(waiting.holder.unwrap_or_default())),
            answer => Ok(answer),
        }
    }

    async fn renew(&self, entries: Vec<Renewal>) -> Vec<Renewed> {
        let mut answers = Vec::with_capacity(entries.len());
        for mut entry in entries {
            entry.name = self.name(&entry.name, Some(entry.attempt));
            for answer in self.inner.renew(vec![entry.clone()]).await {
                answers.push(self.renewed(&entry, answer).await);
            }
        }
        answers
    }

    async fn remove(&self, mut request: Remove) -> Result<Removed, Error> {
        request.name = self.name(&request.name, Some(request.attempt));
        request.outcome_known |= self.has(Flaw::NoFencing);
        if self.has(Flaw::ReleaseDoesNothing) {
            return Ok(Removed::AsHolder);
        }
        let mut removed = self.inner.remove(request.clone()).await?;
        if self.has(Flaw::ReleaseWithoutOwnerCheck) && removed == Removed::Absent {
            self.evict_holder(&request.name).await?;
            removed = Removed::AsHolder;
        }
        if removed == Removed::AsHolder {
            self.ended(&request.name);
        }
        let mut shared = self.store.shared.lock().unwrap();
        shared
            .waiting
            .retain(|(waiting, ..)| waiting.attempt != request.attempt);
        Ok(removed)
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        let folded = self.name(name, None);
        if self.has(Flaw::InspectRenews) {
            self.renew_holder(&folded).await;
        }
        self.inner.inspect(&folded).await
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        self.inner.list(request).await
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        let name = self.name(name, None);
        self.ended(&name);
        if self.has(Flaw::EvictWithoutTokenCheck) {
            return self.evict_holder(&name).await;
        }
        self.inner.evict(&name, token).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
