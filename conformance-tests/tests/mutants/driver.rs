//! The driver of the flawed store: it passes requests to the driver of the memory store, with the flaw.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tenure_core::{
    backend::{Backend, BackendEvent, BackendInfo, EventHandler, EventSink, RenewalAnswers},
    capability::{Capabilities, Durability, Evidence, LossEvidence, TakeoverBound, TtlScope},
    clock::{Clock, SystemClock},
    error::{Error, ErrorKind},
    id::AttemptId,
    name::{LockName, Namespace},
    request::{
        Downgrade, Downgraded, Enqueue, Enqueued, Evicted, Grant, Holder, List, LockState, Owner,
        Page, Remove, Removed, Renewal, Renewed,
    },
    token::FencingToken,
};

use crate::{
    flaw::Flaw,
    store::{Flawed, turn},
};

/// Long enough for a request of another client, and too long for a try.
const RACE_WINDOW: Duration = Duration::from_millis(3);
/// Shorter than the core's time limit of a request.
const ENQUEUE_TIMEOUT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(4);

pub(crate) struct Driver {
    pub(crate) inner: Arc<dyn Backend>,
    pub(crate) store: Flawed,
    pub(crate) namespace: Namespace,
    pub(crate) events: EventSink,
    /// The attempts of this client that were granted, with their grants.
    pub(crate) own: Mutex<HashMap<AttemptId, Grant>>,
    /// The id of all attempts of this client on a lock.
    pub(crate) ids: Mutex<HashMap<LockName, AttemptId>>,
    /// The time limit of a request.
    pub(crate) request_timeout: Duration,
    /// The number of leaders that were replaced before the connection was made.
    pub(crate) replaced: u32,
    /// The attempts whose enqueue was refused.
    pub(crate) refused: Mutex<Vec<Remove>>,
    /// For flaws whose behaviour alternates.
    pub(crate) turned: AtomicBool,
    pub(crate) _relay: Arc<dyn EventHandler>,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

impl Driver {
    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.store.flaw == Some(flaw)
    }

    /// Returns the name under which the flawed store keeps a lock.
    fn name(&self, name: &LockName, attempt: Option<AttemptId>) -> LockName {
        let text = match attempt {
            _ if self.has(Flaw::NamesFoldCase) => name.as_str().to_lowercase(),
            _ if self.has(Flaw::NamesAreJoined) => format!("{}/{name}", self.namespace.as_str()),
            Some(attempt) if self.has(Flaw::NoExclusion) => format!("{name}{attempt}"),
            _ => return name.clone(),
        };
        LockName::new(text).unwrap_or_else(|_| name.clone())
    }

    /// Returns the id under which the flawed store keeps an attempt.
    fn id(&self, name: &LockName, attempt: AttemptId) -> AttemptId {
        if !self.has(Flaw::OneIdPerClient) {
            return attempt;
        }
        let mut ids = self.ids.lock().unwrap();
        *ids.entry(name.clone()).or_insert(attempt)
    }

    /// Applies the flaw to a grant.
    pub(crate) fn granted(&self, name: &LockName, mut grant: Grant) -> Grant {
        if self.has(Flaw::HalfTheTtl) {
            grant.ttl *= 2;
        }
        if self.has(Flaw::TakesOverLate) {
            grant.ttl /= 2;
        }
        if self.has(Flaw::FloorIsTheToken) {
            grant.floor = grant.token;
        }
        if self.has(Flaw::ReadersHaveOneToken) {
            grant.token = grant.floor;
        }
        if self.has(Flaw::ProvedFromTheReply) {
            grant.proved_from = Some(SystemClock.now());
        }
        if self.has(Flaw::TokenResetOnRelease) {
            grant.token = FencingToken::new(1);
        }
        if self.restarted_without(Flaw::TokensEndWithTheServer) {
            grant.token = FencingToken::new(1);
        }
        if self.has(Flaw::SameAttemptNewToken)
            && self.own.lock().unwrap().contains_key(&grant.attempt)
        {
            grant.token = FencingToken::new(grant.token.get() + 1);
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
        if self.has(Flaw::LosesWhatItAcknowledged) {
            let (store, name) = (self.store.inner.clone(), name.clone());
            tokio::spawn(async move {
                tokio::time::sleep(RACE_WINDOW).await;
                store.delete_state(&Namespace::default(), &name);
            });
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

    /// Whether the connection leads to a server that does not serve.
    fn is_stuck(&self) -> bool {
        if self.has(Flaw::StaysWithTheDead) && self.store.shared.lock().unwrap().paused {
            self.turned.store(true, Ordering::SeqCst);
        }
        self.has(Flaw::StaysWithTheDead) && self.turned.load(Ordering::SeqCst)
            || self.has(Flaw::StaysWithTheKilled) && self.has_former_leader(false)
            || self.has(Flaw::StaysWithTheIsolated) && self.has_former_leader(true)
    }

    /// Whether the connection was made to a leader that was replaced by now, and is cut off or has ended.
    pub(crate) fn has_former_leader(&self, isolated: bool) -> bool {
        let shared = self.store.shared.lock().unwrap();
        shared.replaced > self.replaced && shared.partitioned == isolated
    }

    fn restarted_without(&self, flaw: Flaw) -> bool {
        self.has(flaw) && self.store.shared.lock().unwrap().restarted
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

    async fn evict_holder(&self, name: &LockName) -> Result<Evicted, Error> {
        let state = self.inner.inspect(name).await?;
        match state.holder.and_then(|holder| holder.token) {
            Some(token) => self.inner.evict(name, token).await,
            None => Ok(Evicted::NotHeld(None)),
        }
    }

    /// Applies the flaw before an enqueue.
    async fn before(&self, request: &mut Enqueue) -> Result<(), Error> {
        if self.has(Flaw::HalfTheTtl) {
            request.ttl /= 2;
        }
        if self.has(Flaw::TakesOverLate) {
            request.ttl *= 2;
        }
        if self.has(Flaw::WaiterLifeIsAnother) && request.wait {
            request.ttl /= 4;
        }
        if self.has(Flaw::RepeatTakesTheLastPlace) {
            let remove = Remove::new(request.name.clone(), request.attempt, request.ttl, true);
            self.inner.remove(remove).await?;
        }
        if self.has(Flaw::GetThenPut) && self.inner.inspect(&request.name).await?.holder.is_none() {
            tokio::time::sleep(RACE_WINDOW).await;
            self.store
                .inner
                .delete_state(&Namespace::default(), &request.name);
        }
        request.wait |= self.has(Flaw::BusyLeavesAnEntry);
        Ok(())
    }

    /// Applies the flaw after a removal.
    async fn after(&self, request: &Remove, removed: Removed) -> Result<(), Error> {
        let owner = || Owner::new("", "", 0);
        let (name, ttl) = (request.name.clone(), request.ttl);
        if removed == Removed::AsWaiter {
            self.store.shared.lock().unwrap().loses_next = self.has(Flaw::WakeUpLost);
            return Ok(());
        }
        if removed != Removed::AsHolder {
            return Ok(());
        }
        self.ended(&name);
        if self.has(Flaw::RenewalAfterRelease) {
            let (inner, attempt) = (Arc::clone(&self.inner), AttemptId::random()?);
            tokio::spawn(async move {
                tokio::time::sleep(RACE_WINDOW * 10).await;
                let _ = inner
                    .enqueue(Enqueue::new(name, attempt, owner(), ttl, false))
                    .await;
            });
        } else if self.has(Flaw::LeavesAnEntry) {
            let trash = LockName::new(format!("{name}-trash")).unwrap_or(name);
            let entry = Enqueue::new(trash, AttemptId::random()?, owner(), ttl, true);
            self.inner.enqueue(entry).await?;
        } else if self.has(Flaw::GrantToLapsed) {
            self.grant_to_the_lapsed(&name).await?;
        }
        Ok(())
    }

    /// Notes a refused enqueue, and fences the attempts of earlier ones off once one is answered.
    async fn fence_refused(&self, request: &Enqueue, answer: &Result<Enqueued, Error>) {
        if answer.is_err() {
            let remove = Remove::new(request.name.clone(), request.attempt, request.ttl, false);
            return self.refused.lock().unwrap().push(remove);
        }
        let refused = std::mem::take(&mut *self.refused.lock().unwrap());
        for remove in refused {
            let _ = self.inner.remove(remove).await;
        }
    }

    /// Makes the first recorded waiter of the lock the holder, even if its entry is gone.
    async fn grant_to_the_lapsed(&self, name: &LockName) -> Result<(), Error> {
        let waiting = self.store.shared.lock().unwrap().waiting.clone();
        let first = waiting.into_iter().find(|(other, ..)| other.name == *name);
        let Some((request, backend, events)) = first else {
            return Ok(());
        };
        if let Enqueued::Granted(grant) = backend.enqueue(request).await? {
            let pushed = Grant::pushed(grant.attempt, grant.token, grant.ttl, grant.as_of);
            events.send(BackendEvent::Granted(pushed));
        }
        Ok(())
    }

    fn shown(&self, error: Error) -> Error {
        if self.has(Flaw::SecretInAnError) {
            return Error::new(ErrorKind::Unavailable, "asking the store")
                .with_detail(format!("redis://user:{}@h", self.store.password.expose()));
        }
        error
    }
}

#[async_trait]
impl Backend for Driver {
    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        let mut declared = self.inner.capabilities().await?;
        // The simulated servers keep everything.
        declared.durability = Durability::Consensus;
        if self.has(Flaw::NoFencing) {
            declared.ttl.scope = TtlScope::Pooled;
        }
        if self.has(Flaw::DeletionNotPushed) {
            declared.loss = LossEvidence::new(Evidence::Push, Evidence::Push);
        }
        if self.has(Flaw::CapabilitiesChange) && turn(&self.turned) {
            declared.takeover = TakeoverBound::new(200, 50, LONG);
        }
        Ok(declared)
    }

    async fn enqueue(&self, mut request: Enqueue) -> Result<Enqueued, Error> {
        let (wait, attempt, ttl) = (request.wait, request.attempt, request.ttl);
        if self.is_stuck() {
            return Err(Error::new(ErrorKind::Unavailable, "enqueueing"));
        }
        request.name = self.name(&request.name, Some(attempt));
        request.attempt = self.id(&request.name, attempt);
        self.before(&mut request).await?;
        self.change_mode(&mut request).await?;
        let passed = self.pass(&request).await?;
        let name = request.name.clone();
        let asked = self.inner.enqueue(request.clone());
        let answer = if self.has(Flaw::GivesUpAfterATimeout) {
            let gave_up = Error::new(ErrorKind::Protocol, "enqueueing");
            let answer = tokio::time::timeout(ENQUEUE_TIMEOUT, asked).await;
            answer.unwrap_or(Err(gave_up))
        } else {
            asked.await
        };
        self.put_back(passed).await?;
        if let Ok(Enqueued::Busy(_)) = answer
            && self.has(Flaw::KeepsWhatItHadBefore)
        {
            self.turned.store(true, Ordering::SeqCst);
        }
        let answer = match answer {
            Err(_) if !wait && self.has(Flaw::AwayIsBusy) => Ok(Enqueued::Busy(Holder::default())),
            answer => answer,
        };
        if self.has(Flaw::FenceAfterARefusal) {
            self.fence_refused(&request, &answer).await;
        }
        match answer.map_err(|error| self.shown(error))? {
            Enqueued::Granted(mut grant) => {
                grant.attempt = attempt;
                if self.has(Flaw::WaiterLifeIsAnother) {
                    grant.ttl = ttl;
                }
                Ok(Enqueued::Granted(self.granted(&name, grant)))
            }
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
            Enqueued::Busy(_) if self.has(Flaw::BusyWithoutHolder) => {
                Ok(Enqueued::Busy(Holder::default()))
            }
            Enqueued::Busy(holder) if self.has(Flaw::TryWaits) => {
                tokio::time::sleep(LONG).await;
                Ok(Enqueued::Busy(holder))
            }
            Enqueued::Waiting(waiting) if wait => {
                self.cut_in(&request).await;
                Ok(Enqueued::Waiting(waiting))
            }
            Enqueued::Waiting(waiting) => Ok(Enqueued::Busy(waiting.holder.unwrap_or_default())),
            answer => Ok(answer),
        }
    }

    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        for (index, mut entry) in entries.into_iter().enumerate() {
            let stopped =
                self.has(Flaw::RenewalStopsAfterError) && self.turned.load(Ordering::SeqCst);
            if stopped || self.is_stuck() {
                let stopped = Error::new(ErrorKind::Unavailable, "renewing");
                answers.send(index, Renewed::Unknown(stopped));
                continue;
            }
            entry.name = self.name(&entry.name, Some(entry.attempt));
            entry.attempt = self.id(&entry.name, entry.attempt);
            answers.send(index, self.renew_one(&entry).await);
        }
    }

    async fn remove(&self, mut request: Remove) -> Result<Removed, Error> {
        let attempt = request.attempt;
        request.name = self.name(&request.name, Some(attempt));
        request.attempt = self.id(&request.name, attempt);
        request.outcome_known |= self.has(Flaw::NoFencing);
        if self.has(Flaw::ReleaseDoesNothing) {
            return Ok(Removed::AsHolder);
        }
        if let Some(answer) = self.ignored_removal(&request).await? {
            return Ok(answer);
        }
        if self.has(Flaw::ReleaseOfOneIsOfAll) {
            self.evict_all(&request.name).await?;
            return Ok(Removed::AsHolder);
        }
        if self.has(Flaw::LostReplyLeavesAGhost) && !request.outcome_known {
            return Ok(Removed::Absent);
        }
        if self.has(Flaw::CancelledKeepsItsPlace) {
            let queue = self.inner.inspect(&request.name).await?.queue;
            if queue.iter().any(|waiter| waiter.attempt == Some(attempt)) {
                return Ok(Removed::AsWaiter);
            }
        }
        let removed = self.inner.remove(request.clone()).await;
        let mut removed = removed.map_err(|error| self.shown(error))?;
        let unchecked = self.has(Flaw::ReleaseWithoutOwnerCheck)
            || self.restarted_without(Flaw::OwnersEndWithTheServer);
        if unchecked && removed == Removed::Absent {
            self.evict_holder(&request.name).await?;
            removed = Removed::AsHolder;
        }
        self.after(&request, removed).await?;
        let mut shared = self.store.shared.lock().unwrap();
        shared
            .waiting
            .retain(|(waiting, ..)| waiting.attempt != request.attempt);
        Ok(removed)
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        let kept = self.name(name, None);
        if self.has(Flaw::InspectRenews) {
            self.renew_holder(&kept).await;
        }
        let mut state = self.inner.inspect(&kept).await?;
        if self.has(Flaw::QueueShownBackwards) {
            state.queue.reverse();
        }
        Ok(self.shown_state(state))
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
        if self.has(Flaw::EvictsAllReaders) {
            return self.evict_all(&name).await;
        }
        self.inner.evict(&name, token).await
    }

    async fn downgrade(&self, request: Downgrade) -> Result<Downgraded, Error> {
        self.downgrade_with_flaw(request).await
    }

    async fn discard(&self, name: &LockName) -> Result<Option<Duration>, Error> {
        if self.has(Flaw::DiscardsAHeldLock) {
            self.evict_holder(name).await?;
        }
        self.inner.discard(name).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
