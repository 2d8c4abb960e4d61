//! The backend: one client's connection to the line server, on the driver trait.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tenure::{
    Error, ErrorKind,
    backend::{Backend, BackendEvent, BackendInfo, Connect, Context, RenewalAnswers},
    capability::*,
    clock::Instant,
    name::LockName,
    queue::Queue,
    request::*,
    secret::Secret,
    token::FencingToken,
};

use crate::{
    client::{Failed, LineClient, Told},
    wire::{Asker, Done, Say, Verb},
};

/// Where a line server listens, and what it wants to hear.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LineStore {
    /// Host and port.
    pub address: String,
    /// The server's password.
    pub password: Secret,
}

#[async_trait]
impl Connect for LineStore {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("line", format!("line://{}", self.address))
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        let events = context.events.clone();
        let unasked = move |say| match say {
            Some(Say::Granted {
                attempt,
                token,
                ttl,
                as_of,
            }) => {
                let grant = Grant::pushed(attempt, token, ttl, StoreTime::new(as_of));
                events.send(BackendEvent::Granted(grant));
            }
            Some(Say::Lost { attempt, reason }) => {
                events.send(BackendEvent::Lost { attempt, reason })
            }
            _ => events.send(BackendEvent::Suspect),
        };
        let asker = Asker {
            password: self.password.expose().to_owned(),
            client: context.client,
            token_floor: context.token_floor.get().saturating_add(1),
            namespace: context.namespace.as_str().to_owned(),
        };
        let client = LineClient::connect(&self.address, asker, unasked).await;
        let client = client
            .map_err(|source| error(ErrorKind::Unavailable, "no connection").with_source(source))?;
        let backend = LineBackend {
            store: self.clone(),
            context,
            client,
        };
        // So that a wrong password is found out now.
        backend.call("", Verb::Look).await?;
        Ok(Arc::new(backend))
    }
}

#[derive(Debug)]
struct LineBackend {
    store: LineStore,
    context: Context,
    client: LineClient,
}

impl LineBackend {
    async fn call(&self, name: &str, verb: Verb) -> Result<Told, Error> {
        self.client
            .ask(name, verb)
            .await
            .map_err(|failed| match failed {
                Failed::NotSent => error(ErrorKind::Unavailable, "the connection is gone"),
                Failed::NoAnswer => error(ErrorKind::OutcomeUnknown, "the connection broke"),
                Failed::Refused => error(ErrorKind::Unauthenticated, "the password is wrong"),
            })
    }

    async fn renew_one(&self, entry: Renewal) -> Result<Renewed, Error> {
        let (from, attempt) = (self.context.clock.now(), entry.attempt);
        let told = self
            .call(entry.name.as_str(), Verb::Renew { attempt })
            .await?;
        Ok(match told.done {
            Done::Granted(token) => {
                Renewed::Granted(Grant::proved(attempt, token, entry.ttl, from))
            }
            Done::Waiting(ahead) => Renewed::Waiting(waiting(&told, from, ahead, attempt)),
            Done::Gone(reason) => Renewed::Gone(reason),
            _ => return Err(unexpected()),
        })
    }
}

#[async_trait]
impl Backend for LineBackend {
    fn info(&self) -> BackendInfo {
        self.store.info()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        let (millisecond, year) = (Duration::from_millis(1), Duration::from_secs(31_536_000));
        Ok(Capabilities::new(
            Durability::Volatile,
            WaitMode::Push,
            LossEvidence::new(Evidence::Push, Evidence::NextRenewal),
            TtlRange::new(millisecond * 100, year, millisecond, TtlScope::Lock),
            TakeoverBound::new(100, 50, millisecond * 500),
        ))
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        let from = self.context.clock.now();
        let (attempt, owner, ttl) = (request.attempt, request.owner, request.ttl);
        let wait = request.wait;
        let verb = Verb::Enqueue {
            attempt,
            owner,
            ttl,
            wait,
        };
        let told = self.call(request.name.as_str(), verb).await?;
        Ok(match told.done {
            Done::Granted(token) => Enqueued::Granted(Grant::proved(attempt, token, ttl, from)),
            Done::Waiting(ahead) => Enqueued::Waiting(waiting(&told, from, ahead, attempt)),
            Done::Busy => Enqueued::Busy(told.holder().unwrap_or_default()),
            Done::Gone(_) => Enqueued::Gone,
            _ => return Err(unexpected()),
        })
    }

    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        for (index, entry) in entries.into_iter().enumerate() {
            let answer = self.renew_one(entry).await;
            answers.send(index, answer.unwrap_or_else(Renewed::Unknown));
        }
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        let fence = (!request.outcome_known).then_some(request.ttl);
        let attempt = request.attempt;
        let verb = Verb::Remove { attempt, fence };
        Ok(match self.call(request.name.as_str(), verb).await?.done {
            Done::RemovedHolder => Removed::AsHolder,
            Done::RemovedWaiter => Removed::AsWaiter,
            _ => Removed::Absent,
        })
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        let told = self.call(name.as_str(), Verb::Look).await?;
        let queue = told
            .locks
            .first()
            .map_or_else(Queue::new, |(_, queue)| queue.clone());
        Ok(queue.lock_state(name.clone(), &told.now))
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        let (prefix, limit) = (request.prefix, request.limit);
        let after = request.cursor.unwrap_or_default();
        let told = self.call(&after, Verb::List { prefix, limit }).await?;
        let last = told.locks.last().filter(|_| told.locks.len() >= limit);
        let next = last.map(|(name, _)| name.clone());
        let listed = |(name, queue): (String, Queue)| {
            let name = LockName::new(name).ok()?;
            queue.listed(name, &told.now)
        };
        Ok(Page::new(
            told.locks.into_iter().filter_map(listed).collect(),
            next,
        ))
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        let told = self.call(name.as_str(), Verb::Evict { token }).await?;
        Ok(match told.done {
            Done::Evicted => Evicted::Evicted,
            _ => Evicted::NotHeld(told.holder()),
        })
    }

    async fn close(&self) {}
}

fn waiting(told: &Told, from: Instant, ahead: u64, attempt: tenure::id::AttemptId) -> Waiting {
    let waiting = Waiting::new(from, told.as_of).with_ahead(ahead);
    waiting
        .with_holder(told.holder())
        .with_recheck(told.recheck(attempt))
}

fn unexpected() -> Error {
    error(ErrorKind::Protocol, "an answer to another question")
}

fn error(kind: ErrorKind, detail: &str) -> Error {
    Error::new(kind, "asking the line server")
        .with_backend("line")
        .with_detail(detail)
}
