//! The adapter for stores without a queue or a clock of their own: whoever offers versioned blobs
//! and compare-and-swap has a backend.
//!
//! A plugin implements [`BlobStore`] (read, compare-and-swap, list, and two methods of facts) and
//! returns `Cas::new(store, context)` from its [`Connect`](crate::backend::Connect). All the rest
//! comes from here: the queue and its order, tokens, expiry, idempotence, eviction, the format of
//! the state and what is refused of it.
//!
//! **Expiry.** An entry carries the time of its last renewal and the identity of the clock that
//! read it. Clients that read the same clock ([`BlobStore::clock_id`]) compare directly. For all
//! others an entry is dead once this client saw it unchanged for its whole TTL on its own clock.
//! So no two clocks need to agree on the time, only on the length of a second.
//!
//! **Tokens** are at least the wall clock's microseconds since 1970, so that they rise even if a
//! lock's state is deleted (T1). If the wall clock is set back and the state deleted as well,
//! they do not; a [token floor](crate::backend::Context::token_floor) helps.
//!
//! **Fencing off a request whose outcome is unknown** (A4) needs no record in the store: its removal
//! publishes a new version, and the late swap fails on that.

mod attempts;
mod blob;
mod inner;
mod observed;
mod store;
#[cfg(test)]
mod tests;
mod view;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use tokio::{
    runtime::Handle,
    task::{AbortHandle, JoinSet},
};

pub use self::store::{BlobStore, Key, Names, Swap, Version, Versioned, Wake};
use self::{
    attempts::Standing,
    inner::{Inner, Turnout},
};
use crate::{
    backend::{Backend, BackendEvent, BackendInfo, Context},
    capability::Capabilities,
    error::{Error, ErrorKind},
    loss::LossReason,
    name::LockName,
    queue::{Answer, Event},
    request::{
        Enqueue, Enqueued, Evicted, Grant, Holder, List, Listed, LockState, Page, Remove, Removed,
        Renewal, Renewed, Waiting,
    },
    token::FencingToken,
};

/// Locks of one batch that are renewed at the same time.
const MOST_AT_ONCE: usize = 32;

/// A backend made of a [`BlobStore`]: one connected client.
#[derive(Debug)]
pub struct Cas<S> {
    inner: Arc<Inner<S>>,
    listener: AbortHandle,
}

impl<S> Drop for Cas<S> {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl<S: BlobStore> Cas<S> {
    /// Makes a backend of a store. Called from inside of
    /// [`Connect::connect`](crate::backend::Connect::connect), in the runtime of the client.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the token floor is out of range or no tokio runtime is entered,
    /// [`ErrorKind::Unavailable`] if the operating system gives no randomness.
    pub fn new(store: S, context: Context) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|source| {
            Error::new(ErrorKind::Config, "connecting")
                .with_detail("it must be called inside of a tokio runtime")
                .with_source(source)
        })?;
        let inner = Arc::new(Inner::new(store, context)?);
        let listener = runtime.spawn(listen(Arc::clone(&inner))).abort_handle();
        Ok(Self { inner, listener })
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.inner.store
    }

    /// Completes an error with what only this layer knows.
    fn explain(&self, error: Error, name: &LockName) -> Error {
        error
            .with_backend(self.inner.store.info().scheme)
            .with_lock(name.clone())
    }
}

async fn listen<S: BlobStore>(inner: Arc<Inner<S>>) {
    loop {
        match inner.store.next_wake().await {
            Wake::Everything => {
                for name in inner.attempts.locks() {
                    inner.look_again(&name).await;
                }
                inner.context.events.send(BackendEvent::Reconnected);
            }
            Wake::Lock(name) => inner.look_again(&name).await,
        }
    }
}

#[async_trait]
impl<S: BlobStore> Backend for Cas<S> {
    fn info(&self) -> BackendInfo {
        self.inner.store.info()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        self.inner.store.capabilities().await
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        let inner = &*self.inner;
        let (name, attempt) = (request.name.clone(), request.attempt);
        inner.register(&name, attempt);
        let key = inner.key(&name);
        let done = inner
            .transact(&key, |turnout| {
                if inner.attempts.is_fenced(attempt) {
                    return Enqueued::Gone;
                }
                let answer = turnout.on(Event::Enqueue {
                    attempt,
                    client: inner.context.client,
                    owner: request.owner.clone(),
                    ttl: request.ttl,
                    wait: request.wait,
                });
                let ttl = granted_ttl(turnout, &request);
                let holder = inner.viewer(&key, &turnout.moment).holder(turnout.queue);
                let recheck = inner
                    .viewer(&key, &turnout.moment)
                    .recheck(turnout.queue, attempt);
                let from = turnout.moment.clock;
                match answer {
                    Answer::Granted(token) => {
                        let mut grant = Grant::proved(attempt, token, ttl, from);
                        grant.as_of = turnout.next;
                        Enqueued::Granted(grant)
                    }
                    Answer::Waiting { ahead } => Enqueued::Waiting(
                        Waiting::new(from, turnout.next)
                            .with_ahead(ahead as u64)
                            .with_holder(holder)
                            .with_recheck(recheck),
                    ),
                    Answer::Busy => Enqueued::Busy(holder.unwrap_or_default()),
                    _ => Enqueued::Gone,
                }
            })
            .await;
        match &done {
            Ok(done) => match done.value {
                Enqueued::Granted(_) => {
                    inner.attempts.note(&name, attempt, Standing::Holding);
                }
                Enqueued::Waiting(_) => {
                    inner.attempts.note(&name, attempt, Standing::Waiting);
                }
                Enqueued::Busy(_) | Enqueued::Gone => inner.forget(&name, attempt),
            },
            Err(error) if error.kind().is_without_effect() => inner.forget(&name, attempt),
            Err(_) => {}
        }
        done.map(|done| done.value)
            .map_err(|error| self.explain(error, &name))
    }

    async fn renew(&self, entries: Vec<Renewal>) -> Vec<Renewed> {
        let mut locks: HashMap<LockName, Vec<usize>> = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            locks.entry(entry.name.clone()).or_default().push(index);
        }
        let mut answers: Vec<Option<Renewed>> = vec![None; entries.len()];
        let mut waiting = locks.into_iter();
        let mut running = JoinSet::new();
        loop {
            while running.len() < MOST_AT_ONCE {
                let Some((name, indices)) = waiting.next() else {
                    break;
                };
                let batch: Vec<_> = indices.iter().map(|&at| entries[at].clone()).collect();
                let inner = Arc::clone(&self.inner);
                running.spawn(async move {
                    let renewed = renew_lock(&inner, &name, &batch).await;
                    // At once: a lock whose blob does not answer must not hold up the others'
                    // proofs until the whole call is given up.
                    for (renewal, renewed) in batch.iter().zip(&renewed) {
                        tell_part(&inner, renewal, renewed);
                    }
                    (indices, renewed)
                });
            }
            match running.join_next().await {
                Some(Ok((indices, renewed))) => {
                    for (index, renewed) in indices.into_iter().zip(renewed) {
                        answers[index] = Some(match renewed {
                            Renewed::Unknown(error) => {
                                Renewed::Unknown(self.explain(error, &entries[index].name))
                            }
                            renewed => renewed,
                        });
                    }
                }
                Some(Err(_)) => {}
                None => break,
            }
        }
        let unanswered = || {
            Renewed::Unknown(
                Error::new(ErrorKind::OutcomeUnknown, "renewing")
                    .with_detail("its task ended without an answer"),
            )
        };
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(unanswered))
            .collect()
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        let inner = &*self.inner;
        let Remove {
            name,
            attempt,
            ttl,
            outcome_known,
        } = request;
        inner.forget(&name, attempt);
        if !outcome_known {
            let now = inner.context.clock.now();
            inner.attempts.fence(attempt, now, now + ttl);
        }
        let key = inner.key(&name);
        let done = inner
            .transact(&key, |turnout| {
                if !outcome_known {
                    // A swap that is still under way compares with the version before this one.
                    turnout.write();
                }
                match turnout.on(Event::Remove {
                    attempt,
                    fence: None,
                }) {
                    Answer::RemovedHolder => Removed::AsHolder,
                    Answer::RemovedWaiter => Removed::AsWaiter,
                    _ => Removed::Absent,
                }
            })
            .await
            .map_err(|error| self.explain(error, &name))?;
        if done.value == Removed::Absent {
            // An earlier try may have done it and never come to waking whoever was next.
            match done.state.queue.holder().map(|entry| entry.client) {
                Some(client) if client == inner.context.client => inner.look_again(&name).await,
                Some(client) => inner.store.wake(client, &key).await,
                None => {}
            }
        }
        Ok(done.value)
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        let inner = &*self.inner;
        let key = inner.key(name);
        let (_, state) = inner
            .read(&key)
            .await
            .map_err(|error| self.explain(error, name))?;
        let moment = inner.moment();
        // Notes what is seen here, and changes nothing in the store: without it an entry that
        // another clock stamped would be shown for as long as nobody comes to take its place.
        inner.observed.look(&key, &state.queue, moment.clock);
        let viewer = inner.viewer(&key, &moment);
        Ok(LockState::new(
            name.clone(),
            viewer.holder(&state.queue),
            viewer.waiters(&state.queue),
        ))
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        let inner = &*self.inner;
        let scheme = inner.store.info().scheme;
        let names = inner
            .store
            .list(
                &inner.context.namespace,
                &request.prefix,
                request.cursor.as_deref(),
                request.limit.max(1),
            )
            .await
            .map_err(|error| error.with_backend(scheme))?;
        let mut locks = Vec::new();
        for name in names.names {
            match self.inspect(&name).await {
                Ok(state) if state.holder.is_none() && state.queue.is_empty() => {}
                Ok(state) => {
                    let waiters = state.queue.len() as u64;
                    locks.push(Listed::new(name, state.holder, waiters));
                }
                // One that cannot be read is not free, and does not hide the others.
                Err(error)
                    if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NewerFormat) =>
                {
                    locks.push(Listed::new(name, Some(Holder::foreign()), 0));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Page::new(locks, names.next))
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        let inner = &*self.inner;
        let key = inner.key(name);
        let done = inner
            .transact(&key, |turnout| {
                if turnout.on(Event::Evict { token }) == Answer::Evicted {
                    return Evicted::Evicted;
                }
                let viewer = inner.viewer(&key, &turnout.moment);
                Evicted::NotHeld(viewer.holder(turnout.queue))
            })
            .await;
        done.map(|done| done.value)
            .map_err(|error| self.explain(error, name))
    }

    async fn close(&self) {
        self.listener.abort();
        self.inner.store.close().await;
    }
}

/// The TTL of the attempt's entry: a repeated enqueue does not change it.
fn granted_ttl(turnout: &Turnout<'_>, request: &Enqueue) -> std::time::Duration {
    let entry = turnout.queue.entry(request.attempt);
    entry.map_or(request.ttl, |entry| entry.ttl)
}

/// Renews and reports all of this client's entries at one lock with one swap at most.
async fn renew_lock<S: BlobStore>(
    inner: &Inner<S>,
    name: &LockName,
    batch: &[Renewal],
) -> Vec<Renewed> {
    let key = inner.key(name);
    let done = inner
        .transact(&key, |turnout| {
            batch
                .iter()
                .map(|renewal| renew_one(inner, &key, turnout, renewal))
                .collect::<Vec<_>>()
        })
        .await;
    let answers = match done {
        Ok(done) => done.value,
        Err(error) => {
            let unknown = |_: &Renewal| Renewed::Unknown(error.clone());
            return batch.iter().map(unknown).collect();
        }
    };
    for (renewal, answer) in batch.iter().zip(&answers) {
        match answer {
            Renewed::Gone(_) => inner.forget(name, renewal.attempt),
            Renewed::Granted(_) => {
                inner
                    .attempts
                    .note(name, renewal.attempt, Standing::Holding);
            }
            _ => {}
        }
    }
    answers
}

fn tell_part<S: BlobStore>(inner: &Inner<S>, renewal: &Renewal, renewed: &Renewed) {
    let attempt = renewal.attempt;
    let event = match renewed {
        Renewed::Proved { from } => BackendEvent::Proved {
            attempt,
            from: *from,
        },
        Renewed::Granted(grant) => BackendEvent::Granted(grant.clone()),
        Renewed::Gone(reason) => BackendEvent::Lost {
            attempt,
            reason: *reason,
        },
        _ => return,
    };
    inner.context.events.send(event);
}

fn renew_one<S: BlobStore>(
    inner: &Inner<S>,
    key: &Key,
    turnout: &mut Turnout<'_>,
    renewal: &Renewal,
) -> Renewed {
    let attempt = renewal.attempt;
    let entry = turnout.queue.entry(attempt);
    let held = entry.and_then(|entry| entry.grant).map(|grant| grant.token);
    if entry.is_some() && renewal.token.is_some() && renewal.token != held {
        // The store was rolled back: that grant is gone, and this entry is none of it (L4).
        return Renewed::Gone(LossReason::Displaced);
    }
    if let Some(answer) = still_fresh(inner, key, turnout, renewal) {
        return answer;
    }
    let ttl = entry.map_or(renewal.ttl, |entry| entry.ttl);
    let from = turnout.moment.clock;
    match turnout.on(Event::Renew { attempt }) {
        Answer::Granted(_) if renewal.token.is_some() => Renewed::Proved { from },
        Answer::Granted(token) => {
            let mut grant = Grant::proved(attempt, token, ttl, from);
            grant.as_of = turnout.next;
            Renewed::Granted(grant)
        }
        Answer::Waiting { ahead } => {
            let viewer = inner.viewer(key, &turnout.moment);
            Renewed::Waiting(
                Waiting::new(from, turnout.next)
                    .with_ahead(ahead as u64)
                    .with_holder(viewer.holder(turnout.queue))
                    .with_recheck(viewer.recheck(turnout.queue, attempt)),
            )
        }
        Answer::Gone(reason) => Renewed::Gone(reason),
        _ => Renewed::Gone(LossReason::Evicted),
    }
}

/// The answer to a waiter whose entry needs no refreshing yet: it is less than a sixth of its TTL
/// old, and the holder has not died. So polling costs reads and not writes.
fn still_fresh<S: BlobStore>(
    inner: &Inner<S>,
    key: &Key,
    turnout: &Turnout<'_>,
    renewal: &Renewal,
) -> Option<Renewed> {
    let mut entries = turnout.queue.entries();
    let front = turnout.queue.entries().next()?;
    if front.has_lapsed(&turnout.moment.now) {
        return None;
    }
    let ahead = entries.position(|entry| entry.attempt == renewal.attempt)?;
    let entry = turnout.queue.entry(renewal.attempt)?;
    if entry.grant.is_some() {
        return None;
    }
    let refreshed = inner.own_stamp(&entry.refreshed, turnout.moment.clock)?;
    if turnout.moment.clock.since(refreshed) >= entry.ttl / 6 {
        return None;
    }
    let viewer = inner.viewer(key, &turnout.moment);
    Some(Renewed::Waiting(
        Waiting::new(refreshed, turnout.as_of)
            .with_ahead(ahead as u64)
            .with_holder(viewer.holder(turnout.queue))
            .with_recheck(viewer.recheck(turnout.queue, renewal.attempt)),
    ))
}
