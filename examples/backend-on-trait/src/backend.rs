//! The backend: the driver trait on a client of the line server.

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
    client::{CallError, LineClient, Response},
    wire::{Operation, Outcome, ServerMessage, Session},
};

/// The address and the password of a line server.
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
        let on_notice = move |message| match message {
            Some(ServerMessage::Granted {
                attempt,
                token,
                ttl,
                as_of,
            }) => {
                let grant = Grant::pushed(attempt, token, ttl, StoreTime::new(as_of));
                events.send(BackendEvent::Granted(grant));
            }
            Some(ServerMessage::Lost { attempt, reason }) => {
                events.send(BackendEvent::Lost { attempt, reason })
            }
            _ => events.send(BackendEvent::Suspect),
        };
        let session = Session {
            password: self.password.expose().to_owned(),
            client: context.client,
            token_floor: context.token_floor.get().saturating_add(1),
            namespace: context.namespace.as_str().to_owned(),
        };
        let client = LineClient::connect(&self.address, session, on_notice).await;
        let client = client
            .map_err(|source| error(ErrorKind::Unavailable, "no connection").with_source(source))?;
        let backend = LineBackend {
            store: self.clone(),
            context,
            client,
        };
        // This request detects a wrong password.
        backend.call("", Operation::Inspect).await?;
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
    async fn call(&self, name: &str, operation: Operation) -> Result<Response, Error> {
        self.client
            .call(name, operation)
            .await
            .map_err(|failed| match failed {
                CallError::NotSent => error(ErrorKind::Unavailable, "the connection is closed"),
                CallError::NoResponse => error(ErrorKind::OutcomeUnknown, "the connection broke"),
                CallError::Refused => error(ErrorKind::Unauthenticated, "the password is wrong"),
            })
    }

    async fn renew_one(&self, entry: Renewal) -> Result<Renewed, Error> {
        let (from, attempt) = (self.context.clock.now(), entry.attempt);
        let response = self
            .call(entry.name.as_str(), Operation::Renew { attempt })
            .await?;
        Ok(match response.outcome {
            Outcome::Granted(token) => {
                Renewed::Granted(Grant::proved(attempt, token, entry.ttl, from))
            }
            Outcome::Waiting(ahead) => Renewed::Waiting(waiting(&response, from, ahead, attempt)),
            Outcome::Gone(reason) => Renewed::Gone(reason),
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
        let operation = Operation::Enqueue {
            attempt,
            owner,
            ttl,
            wait,
        };
        let response = self.call(request.name.as_str(), operation).await?;
        Ok(match response.outcome {
            Outcome::Granted(token) => Enqueued::Granted(Grant::proved(attempt, token, ttl, from)),
            Outcome::Waiting(ahead) => Enqueued::Waiting(waiting(&response, from, ahead, attempt)),
            Outcome::Busy => Enqueued::Busy(response.holder().unwrap_or_default()),
            Outcome::Gone(_) => Enqueued::Gone,
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
        let operation = Operation::Remove { attempt, fence };
        Ok(
            match self.call(request.name.as_str(), operation).await?.outcome {
                Outcome::RemovedHolder => Removed::AsHolder,
                Outcome::RemovedWaiter => Removed::AsWaiter,
                _ => Removed::Absent,
            },
        )
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        let response = self.call(name.as_str(), Operation::Inspect).await?;
        let queue = response
            .locks
            .first()
            .map_or_else(Queue::new, |(_, queue)| queue.clone());
        Ok(queue.lock_state(name.clone(), &response.now))
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        let (prefix, limit) = (request.prefix, request.limit);
        let after = request.cursor.unwrap_or_default();
        let response = self.call(&after, Operation::List { prefix, limit }).await?;
        let last = response
            .locks
            .last()
            .filter(|_| response.locks.len() >= limit);
        let next = last.map(|(name, _)| name.clone());
        let listed = |(name, queue): (String, Queue)| {
            let name = LockName::new(name).ok()?;
            queue.listed(name, &response.now)
        };
        Ok(Page::new(
            response.locks.into_iter().filter_map(listed).collect(),
            next,
        ))
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        let response = self.call(name.as_str(), Operation::Evict { token }).await?;
        Ok(match response.outcome {
            Outcome::Evicted => Evicted::Evicted,
            _ => Evicted::NotHeld(response.holder()),
        })
    }

    async fn close(&self) {}
}

fn waiting(
    response: &Response,
    from: Instant,
    ahead: u64,
    attempt: tenure::id::AttemptId,
) -> Waiting {
    let waiting = Waiting::new(from, response.as_of).with_ahead(ahead);
    waiting
        .with_holder(response.holder())
        .with_recheck(response.recheck(attempt))
}

fn unexpected() -> Error {
    error(ErrorKind::Protocol, "the response does not fit the request")
}

fn error(kind: ErrorKind, detail: &str) -> Error {
    Error::new(kind, "request to the line server")
        .with_backend("line")
        .with_detail(detail)
}
