//! One client's connection to a [`MemoryStore`]: every request is one event of the queue machine.

use async_trait::async_trait;

use super::store::{Fault, MemoryStore, Taken};
use crate::{
    backend::{Backend, BackendInfo, Context},
    capability::Capabilities,
    clock::Instant,
    error::{Error, ErrorKind},
    id::AttemptId,
    loss::LossReason,
    name::LockName,
    queue::{Answer, Event},
    request::{
        Enqueue, Enqueued, Evicted, Grant, Holder, List, LockState, Page, Remove, Removed, Renewal,
        Renewed, Waiting,
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

    /// The way to the store: where a request can be refused, or hang.
    async fn reach(&self, operation: &'static str) -> Result<(), Error> {
        self.store.unless_hanging().await;
        if self.store.fault() == Fault::Unreachable {
            return Err(error(
                ErrorKind::Unavailable,
                operation,
                "the store cannot be reached",
            ));
        }
        Ok(())
    }

    /// The way back: where an answer can be lost.
    fn reply<T>(&self, operation: &'static str, answer: T) -> Result<T, Error> {
        if self.store.fault() == Fault::LoseReplies {
            return Err(error(
                ErrorKind::OutcomeUnknown,
                operation,
                "the answer was lost",
            ));
        }
        Ok(answer)
    }

    fn take(&self, name: &LockName, event: Event) -> Option<Taken> {
        let floor = self.context.token_floor.get().saturating_add(1);
        self.store.take(&self.context.namespace, name, floor, event)
    }

    fn waiting(
        &self,
        name: &LockName,
        attempt: AttemptId,
        from: Instant,
        taken: &Taken,
    ) -> Waiting {
        let recheck = self.store.read(&self.context.namespace, |locks, now| {
            locks
                .get(name)
                .and_then(|queue| queue.recheck(attempt, now))
        });
        let waiting = Waiting::new(from, taken.as_of)
            .with_holder(self.holder(name))
            .with_recheck(recheck);
        match taken.step.answer {
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
        self.reach(OPERATION).await?;
        let taken = self.take(
            &entry.name,
            Event::Renew {
                attempt: entry.attempt,
            },
        );
        let Some(taken) = taken else {
            return self.reply(OPERATION, Renewed::Gone(LossReason::Evicted));
        };
        let answer = match taken.step.answer {
            Answer::Granted(token) => {
                Renewed::Granted(Grant::proved(entry.attempt, token, entry.ttl, from))
            }
            Answer::Waiting { .. } => {
                Renewed::Waiting(self.waiting(&entry.name, entry.attempt, from, &taken))
            }
            Answer::Gone(reason) => Renewed::Gone(reason),
            _ => Renewed::Unknown(impossible(OPERATION)),
        };
        self.reply(OPERATION, answer)
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
        self.reach(OPERATION).await?;
        let Enqueue {
            name,
            attempt,
            owner,
            ttl,
            wait,
        } = request;
        let client = self.context.client;
        let taken = self
            .take(
                &name,
                Event::Enqueue {
                    attempt,
                    client,
                    owner,
                    ttl,
                    wait,
                },
            )
            .ok_or_else(|| impossible(OPERATION))?;
        let answer = match taken.step.answer {
            Answer::Granted(token) => Enqueued::Granted(Grant::proved(attempt, token, ttl, from)),
            Answer::Waiting { .. } => Enqueued::Waiting(self.waiting(&name, attempt, from, &taken)),
            Answer::Busy => Enqueued::Busy(self.holder(&name).unwrap_or_default()),
            Answer::Gone(_) => Enqueued::Gone,
            _ => return Err(impossible(OPERATION)),
        };
        self.reply(OPERATION, answer)
    }

    async fn renew(&self, entries: Vec<Renewal>) -> Vec<Renewed> {
        let mut answers = Vec::with_capacity(entries.len());
        for entry in &entries {
            answers.push(self.renew_one(entry).await.unwrap_or_else(Renewed::Unknown));
        }
        answers
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        const OPERATION: &str = "releasing";
        self.reach(OPERATION).await?;
        let fence = (!request.outcome_known).then_some(request.ttl);
        let taken = self.take(
            &request.name,
            Event::Remove {
                attempt: request.attempt,
                fence,
            },
        );
        let answer = match taken.map(|taken| taken.step.answer) {
            Some(Answer::RemovedHolder) => Removed::AsHolder,
            Some(Answer::RemovedWaiter) => Removed::AsWaiter,
            _ => Removed::Absent,
        };
        self.reply(OPERATION, answer)
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        const OPERATION: &str = "inspecting";
        self.reach(OPERATION).await?;
        let state = self.store.read(&self.context.namespace, |locks, now| {
            locks.get(name).map_or_else(
                || LockState::new(name.clone(), None, Vec::new()),
                |queue| queue.lock_state(name.clone(), now),
            )
        });
        self.reply(OPERATION, state)
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        const OPERATION: &str = "listing";
        self.reach(OPERATION).await?;
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
        self.reply(OPERATION, page)
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        const OPERATION: &str = "evicting";
        self.reach(OPERATION).await?;
        let taken = self.take(name, Event::Evict { token });
        let answer = match taken.map(|taken| taken.step.answer) {
            Some(Answer::Evicted) => Evicted::Evicted,
            _ => Evicted::NotHeld(self.holder(name)),
        };
        self.reply(OPERATION, answer)
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

fn impossible(operation: &'static str) -> Error {
    error(
        ErrorKind::Protocol,
        operation,
        "the queue gave an answer to another question",
    )
}
