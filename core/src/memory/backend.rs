//! A client's connection to a [`MemoryStore`]. Every request is one event of the queue.

use async_trait::async_trait;

use super::store::{Applied, InjectedFault, MemoryStore};
use crate::{
    backend::{Backend, BackendInfo, Context, RenewalAnswers},
    capability::Capabilities,
    clock::Instant,
    error::{Error, ErrorKind},
    id::AttemptId,
    loss::LossReason,
    name::LockName,
    queue::{Answer, Event},
    request::{
        Downgrade, Downgraded, Enqueue, Enqueued, Evicted, Grant, Holder, List, LockState, Page,
        Remove, Removed, Renewal, Renewed, Waiting,
    },
    token::FencingToken,
};

#[derive(Debug)]
pub(super) struct MemoryBackend {
    store: MemoryStore,
    context: Context,
}

impl MemoryBackend {
    pub(super) const fn new(store: MemoryStore, context: Context) -> Self {
        Self { store, context }
    }

    /// Simulates the sending of a request, which can fail or hang.
    async fn check_reachable(&self, operation: &'static str) -> Result<(), Error> {
        self.store.wait_unless_hanging().await;
        if self.store.fault() == InjectedFault::Unreachable {
            return Err(error(
                ErrorKind::Unavailable,
                operation,
                "the store cannot be reached",
            ));
        }
        Ok(())
    }

    /// Simulates the delivery of a reply, which can be lost.
    fn deliver_reply<T>(&self, operation: &'static str, answer: T) -> Result<T, Error> {
        if self.store.fault() == InjectedFault::LoseReplies {
            return Err(error(
                ErrorKind::OutcomeUnknown,
                operation,
                "the answer was lost",
            ));
        }
        Ok(answer)
    }

    fn apply(&self, name: &LockName, event: Event) -> Option<Applied> {
        let floor = self.context.token_floor.get().saturating_add(1);
        self.store
            .apply(&self.context.namespace, name, floor, event)
    }

    fn waiting(
        &self,
        name: &LockName,
        attempt: AttemptId,
        from: Instant,
        applied: &Applied,
    ) -> Waiting {
        let recheck = self.store.read(&self.context.namespace, |locks, now| {
            locks
                .get(name)
                .and_then(|queue| queue.recheck(attempt, now))
        });
        let waiting = Waiting::new(from, applied.as_of)
            .with_holder(self.holder(name))
            .with_recheck(recheck);
        match applied.step.answer {
            Answer::Waiting { ahead } => {
                waiting.with_ahead(u64::try_from(ahead).unwrap_or(u64::MAX))
            }
            _ => waiting,
        }
    }

    fn holder(&self, name: &LockName) -> Option<Holder> {
        self.store.read(&self.context.namespace, |locks, now| {
            locks.get(name).and_then(|queue| queue.holder_view(now))
        })
    }

    async fn renew_one(&self, entry: &Renewal) -> Result<Renewed, Error> {
        const OPERATION: &str = "renewing";
        let from = self.context.clock.now();
        self.check_reachable(OPERATION).await?;
        let applied = self.apply(
            &entry.name,
            Event::Renew {
                attempt: entry.attempt,
            },
        );
        let Some(applied) = applied else {
            return self.deliver_reply(OPERATION, Renewed::Gone(LossReason::Evicted));
        };
        let answer = match applied.step.answer {
            Answer::Granted { token, floor } => Renewed::Granted(
                Grant::proved(entry.attempt, token, entry.ttl, from).with_floor(floor),
            ),
            Answer::Waiting { .. } => {
                Renewed::Waiting(self.waiting(&entry.name, entry.attempt, from, &applied))
            }
            Answer::Gone(reason) => Renewed::Gone(reason),
            _ => Renewed::Unknown(unexpected_answer(OPERATION)),
        };
        self.deliver_reply(OPERATION, answer)
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn info(&self) -> BackendInfo {
        self.store.endpoint()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        Ok(MemoryStore::CAPABILITIES)
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        const OPERATION: &str = "acquiring";
        let from = self.context.clock.now();
        self.check_reachable(OPERATION).await?;
        let Enqueue {
            name,
            attempt,
            owner,
            ttl,
            wait,
            mode,
            beside_readers: _,
        } = request;
        let client = self.context.client;
        let applied = self
            .apply(
                &name,
                Event::Enqueue {
                    attempt,
                    client,
                    owner,
                    ttl,
                    wait,
                    mode,
                },
            )
            .ok_or_else(|| unexpected_answer(OPERATION))?;
        let answer = match applied.step.answer {
            Answer::Granted { token, floor } => {
                Enqueued::Granted(Grant::proved(attempt, token, ttl, from).with_floor(floor))
            }
            Answer::Waiting { .. } => {
                Enqueued::Waiting(self.waiting(&name, attempt, from, &applied))
            }
            Answer::Busy => Enqueued::Busy(self.holder(&name).unwrap_or_default()),
            Answer::Gone(_) => Enqueued::Gone,
            _ => return Err(unexpected_answer(OPERATION)),
        };
        self.deliver_reply(OPERATION, answer)
    }

    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        for (index, entry) in entries.iter().enumerate() {
            let answer = self.renew_one(entry).await;
            answers.send(index, answer.unwrap_or_else(Renewed::Unknown));
        }
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        const OPERATION: &str = "releasing";
        self.check_reachable(OPERATION).await?;
        let fence = (!request.outcome_known).then_some(request.ttl);
        let applied = self.apply(
            &request.name,
            Event::Remove {
                attempt: request.attempt,
                fence,
            },
        );
        let answer = match applied.map(|applied| applied.step.answer) {
            Some(Answer::RemovedHolder) => Removed::AsHolder,
            Some(Answer::RemovedWaiter) => Removed::AsWaiter,
            _ => Removed::Absent,
        };
        self.deliver_reply(OPERATION, answer)
    }

    async fn downgrade(&self, request: Downgrade) -> Result<Downgraded, Error> {
        const OPERATION: &str = "downgrading";
        self.check_reachable(OPERATION).await?;
        let (attempt, token) = (request.attempt, request.token);
        let applied = self.apply(&request.name, Event::Downgrade { attempt, token });
        let answer = match applied.map(|applied| applied.step.answer) {
            Some(Answer::Granted { .. }) => Downgraded::Shared,
            Some(Answer::Gone(reason)) => Downgraded::Gone(reason),
            Some(_) => Downgraded::Gone(LossReason::Displaced),
            None => Downgraded::Gone(LossReason::Evicted),
        };
        self.deliver_reply(OPERATION, answer)
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        const OPERATION: &str = "inspecting";
        self.check_reachable(OPERATION).await?;
        let state = self.store.read(&self.context.namespace, |locks, now| {
            locks.get(name).map_or_else(
                || LockState::new(name.clone(), None, Vec::new()),
                |queue| queue.lock_state(name.clone(), now),
            )
        });
        self.deliver_reply(OPERATION, state)
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        const OPERATION: &str = "listing";
        self.check_reachable(OPERATION).await?;
        let page = self.store.read(&self.context.namespace, |locks, now| {
            let mut page = Page::default();
            let begun = |name: &LockName| {
                request
                    .cursor
                    .as_ref()
                    .is_none_or(|cursor| name.as_str() > cursor.as_str())
            };
            for (name, queue) in locks.iter().filter(|(name, _)| begun(name)) {
                if !name.as_str().starts_with(&request.prefix) {
                    continue;
                }
                if page.locks.len() == request.limit {
                    page.next = page
                        .locks
                        .last()
                        .map(|listed| listed.name.as_str().to_owned());
                    break;
                }
                page.locks.extend(queue.listed(name.clone(), now));
            }
            page
        });
        self.deliver_reply(OPERATION, page)
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        const OPERATION: &str = "evicting";
        self.check_reachable(OPERATION).await?;
        let applied = self.apply(name, Event::Evict { token });
        let answer = match applied.map(|applied| applied.step.answer) {
            Some(Answer::Evicted) => Evicted::Evicted,
            _ => Evicted::NotHeld(self.holder(name)),
        };
        self.deliver_reply(OPERATION, answer)
    }

    async fn close(&self) {
        self.store.disconnect(self.context.client);
    }
}

fn error(kind: ErrorKind, operation: &'static str, detail: &str) -> Error {
    Error::new(kind, operation)
        .with_backend("memory")
        .with_detail(detail)
}

fn unexpected_answer(operation: &'static str) -> Error {
    error(
        ErrorKind::Protocol,
        operation,
        "the queue returned an unexpected answer",
    )
}
