//! The adapter for stores without a queue or a clock: it turns versioned blobs with
//! compare-and-swap into a backend.
//!
//! A plugin implements [`BlobStore`] (read, compare-and-swap, list, and two methods that return
//! facts) and returns `Cas::new(store, context)` from its [`Connect`](crate::backend::Connect). The
//! adapter provides the rest: the queue and its order, tokens, expiry, idempotence, eviction, and
//! the format and validation of the state.
//!
//! **Expiry.** An entry contains the time of its last renewal and the identity of the clock that
//! read it. Clients that read the same clock ([`BlobStore::clock_id`]) compare the times directly.
//! Any other client considers an entry dead once it has seen the entry unchanged for its whole TTL
//! on its own clock. So clocks need not agree on the time, only on the length of a second.
//!
//! **Tokens** are at least the wall clock's microseconds since 1970, so that they increase even if
//! a lock's state is deleted (T1). They do not if the wall clock is set back and the state is
//! deleted as well; a [token floor](crate::backend::Context::token_floor) prevents that.
//!
//! **Fencing a request whose outcome is unknown** (A4) needs no record in the store: the removal
//! publishes a new version, on which the late swap fails.

mod attempts;
mod blob;
mod entry_line;
mod observed;
mod store;
#[cfg(test)]
mod tests;
mod transaction;
mod view;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    runtime::Handle,
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout_at},
};

pub use self::store::{BlobStore, Key, Names, Swap, SwapPermit, Version, Versioned, Wake};
use self::{
    attempts::AttemptStatus,
    transaction::{Contention, Shared, Transaction},
};
use crate::{
    backend::{Backend, BackendEvent, BackendInfo, Context, RenewalAnswers},
    capability::{Capabilities, TakeoverBound, WaitMode},
    error::{Error, ErrorKind},
    loss::LossReason,
    mode::{Mode, Modes},
    name::LockName,
    queue::{Answer, Event},
    request::{
        Downgrade, Downgraded, Enqueue, Enqueued, Evicted, Grant, List, Listed, LockState, Page,
        Remove, Removed, Renewal, Renewed, Waiting,
    },
    token::FencingToken,
};

/// Number of locks of one batch that are renewed concurrently, as long as that is fast enough to
/// begin the last one in time.
const CONCURRENT_LOCKS: usize = 32;

/// A backend on top of a [`BlobStore`]: one connected client.
#[derive(Debug)]
pub struct Cas<S> {
    shared: Arc<Shared<S>>,
    listener: AbortHandle,
}

impl<S> Drop for Cas<S> {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl<S: BlobStore> Cas<S> {
    /// Creates a backend from a store. Call it in
    /// [`Connect::connect`](crate::backend::Connect::connect), on the client's runtime.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the token floor is out of range or no tokio runtime is entered,
    /// [`ErrorKind::Unavailable`] if the operating system gives no randomness.
    pub fn new(store: S, context: Context) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|source| {
            Error::new(ErrorKind::Config, "connecting")
                .with_detail("no tokio runtime is entered")
                .with_source(source)
        })?;
        let shared = Arc::new(Shared::new(store, context)?);
        let listener = runtime.spawn(listen(Arc::clone(&shared))).abort_handle();
        Ok(Self { shared, listener })
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.shared.store
    }

    /// Returns the time within which the renewal of every lock of a batch is to begin. Half of the
    /// time limit of a request and most of a renewal interval, which is a third of the TTL, are left
    /// for the last answer.
    fn start_window(&self, ttls: impl Iterator<Item = Duration>) -> Duration {
        let shortest = ttls.min().unwrap_or_default();
        (shortest / 10).min(self.shared.context.request_timeout / 2)
    }
}

async fn listen<S: BlobStore>(shared: Arc<Shared<S>>) {
    loop {
        match shared.store.next_wake().await {
            Wake::Everything => {
                for name in shared.attempts.locks() {
                    shared.recheck(&name).await;
                }
                shared.context.events.send(BackendEvent::Reconnected);
            }
            Wake::Lock(name) => shared.recheck(&name).await,
        }
    }
}

#[async_trait]
impl<S: BlobStore> Backend for Cas<S> {
    fn info(&self) -> BackendInfo {
        self.shared.store.info()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        let store = &self.shared.store;
        let mut capabilities = store.capabilities().await?;
        capabilities.takeover = takeover(capabilities.wait, store.has_one_clock());
        capabilities.modes = Modes::ALL;
        Ok(capabilities)
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        let shared = &*self.shared;
        let (name, attempt) = (request.name.clone(), request.attempt);
        shared.register(&name, attempt);
        let key = shared.key(&name);
        let done = shared
            .transact(&key, Contention::of_enqueue(shared, request.wait), |tx| {
                if shared.attempts.is_fenced(attempt) {
                    return Enqueued::Gone;
                }
                let answer = tx.on(Event::Enqueue {
                    attempt,
                    client: shared.context.client,
                    owner: request.owner.clone(),
                    ttl: request.ttl,
                    wait: request.wait,
                    mode: request.mode,
                });
                let ttl = granted_ttl(tx, &request);
                let holder = shared.viewer(&key, &tx.moment).holder(tx.queue);
                let recheck = shared.viewer(&key, &tx.moment).recheck(tx.queue, attempt);
                let from = tx.moment.clock;
                match answer {
                    Answer::Granted { token, floor } => {
                        let mut grant = Grant::proved(attempt, token, ttl, from).with_floor(floor);
                        grant.as_of = tx.next_as_of;
                        Enqueued::Granted(grant)
                    }
                    Answer::Waiting { ahead } => Enqueued::Waiting(
                        Waiting::new(from, tx.next_as_of)
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
                    shared
                        .attempts
                        .set_status(&name, attempt, AttemptStatus::Holding);
                }
                Enqueued::Waiting(_) => {
                    shared
                        .attempts
                        .set_status(&name, attempt, AttemptStatus::Waiting);
                }
                Enqueued::Busy(_) | Enqueued::Gone => shared.forget(&name, attempt),
            },
            Err(error) if error.is_without_effect() => shared.forget(&name, attempt),
            Err(_) => {}
        }
        done.map(|done| done.value)
            .map_err(|error| self.shared.explain(error, &name))
    }

    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        let mut locks: HashMap<LockName, Vec<(usize, Renewal)>> = HashMap::new();
        for (index, entry) in entries.into_iter().enumerate() {
            let lock = locks.entry(entry.name.clone()).or_default();
            lock.push((index, entry));
        }
        let started = Instant::now();
        let start_window = self.start_window(locks.values().flatten().map(|(_, entry)| entry.ttl));
        let count = locks.len();
        let mut running = JoinSet::new();
        for (position, (name, batch)) in locks.into_iter().enumerate() {
            if running.len() >= CONCURRENT_LOCKS {
                // Locks whose blobs do not answer must not keep the others from being renewed.
                let latest_start = started + start_window.mul_f64(position as f64 / count as f64);
                let _ = timeout_at(latest_start, running.join_next()).await;
            }
            let (shared, answers) = (Arc::clone(&self.shared), answers.clone());
            running.spawn(async move { renew_lock(&shared, &name, &batch, &answers).await });
        }
        while running.join_next().await.is_some() {}
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        let shared = &*self.shared;
        let Remove {
            name,
            attempt,
            ttl,
            outcome_known,
        } = request;
        let held = shared.attempts.is_holding(&name, attempt);
        shared.forget(&name, attempt);
        if !outcome_known {
            let now = shared.context.clock.now();
            shared.attempts.fence(attempt, now, now + ttl);
        }
        let key = shared.key(&name);
        let done = shared
            .transact(&key, Contention::of_entry(ttl, held), |tx| {
                if !outcome_known {
                    // A swap that is still in flight compares with the version before this one.
                    tx.write();
                }
                match tx.on(Event::Remove {
                    attempt,
                    fence: None,
                }) {
                    Answer::RemovedHolder => Removed::AsHolder,
                    Answer::RemovedWaiter => Removed::AsWaiter,
                    _ => Removed::Absent,
                }
            })
            .await
            .map_err(|error| self.shared.explain(error, &name))?;
        if done.value == Removed::Absent {
            // An earlier try may have removed the entry without waking the next holders.
            shared.wake_holders(&key, &done.state.queue).await;
        }
        Ok(done.value)
    }

    async fn downgrade(&self, request: Downgrade) -> Result<Downgraded, Error> {
        let shared = &*self.shared;
        let Downgrade {
            name,
            attempt,
            ttl,
            token,
        } = request;
        let key = shared.key(&name);
        let mut repeated = false;
        let done = shared
            .transact(&key, Contention::of_entry(ttl, true), |tx| {
                let entry = tx.queue.entry(attempt);
                repeated = entry.is_some_and(|entry| entry.mode == Mode::Shared);
                match tx.on(Event::Downgrade { attempt, token }) {
                    Answer::Granted { .. } => Downgraded::Shared,
                    Answer::Gone(reason) => Downgraded::Gone(reason),
                    _ => Downgraded::Gone(LossReason::Displaced),
                }
            })
            .await
            .map_err(|error| shared.explain(error, &name))?;
        if repeated {
            // An earlier try may have let readers in without waking them.
            shared.wake_holders(&key, &done.state.queue).await;
        }
        Ok(done.value)
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        let shared = &*self.shared;
        let key = shared.key(name);
        let (_, state) = shared
            .read(&key)
            .await
            .map_err(|error| self.shared.explain(error, name))?;
        let moment = shared.read_clocks();
        // Records the observation and changes nothing in the store. Without it, a dead entry that
        // another clock stamped would be shown until a client enqueues.
        shared.observed.observe(&key, &state.queue, moment.clock);
        let viewer = shared.viewer(&key, &moment);
        Ok(LockState::with_holders(
            name.clone(),
            viewer.holders(&state.queue),
            viewer.waiters(&state.queue),
        ))
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        let shared = &*self.shared;
        let scheme = shared.store.info().scheme;
        let names = shared
            .store
            .list(
                &shared.context.namespace,
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
                    let (holders, waiters) = (state.holders().count(), state.queue.len());
                    let listed = Listed::new(name, state.holder, waiters as u64);
                    locks.push(listed.with_holders(holders as u64));
                }
                // An unreadable lock must not hide the other locks. If the whole store cannot be
                // read, listing the names has failed before.
                Err(error) if is_about_one_lock(error.kind()) => {
                    locks.push(Listed::unreadable(name, &error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Page::new(locks, names.next))
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        let shared = &*self.shared;
        let key = shared.key(name);
        let done = shared
            .transact(&key, Contention::of_enqueue(shared, false), |tx| {
                if tx.on(Event::Evict { token }) == Answer::Evicted {
                    return Evicted::Evicted;
                }
                let viewer = shared.viewer(&key, &tx.moment);
                Evicted::NotHeld(viewer.holder(tx.queue))
            })
            .await;
        done.map(|done| done.value)
            .map_err(|error| self.shared.explain(error, name))
    }

    async fn discard(&self, name: &LockName) -> Result<Option<Duration>, Error> {
        let shared = &*self.shared;
        let key = shared.key(name);
        let (version, state) = shared
            .read(&key)
            .await
            .map_err(|error| shared.explain(error, name))?;
        let moment = shared.read_clocks();
        let viewer = shared.viewer(&key, &moment);
        let is_free =
            viewer.holder(&state.queue).is_none() && viewer.waiters(&state.queue).is_empty();
        let is_gone = match version {
            None => true,
            Some(version) if is_free => shared.store.delete(&key, &version).await?,
            Some(_) => false,
        };
        if is_gone {
            return Ok(Some(Duration::ZERO));
        }
        Ok(self.capabilities().await?.residue)
    }

    async fn close(&self) {
        self.listener.abort();
        self.shared.store.close().await;
    }
}

/// Returns the takeover bound of the adapter. A client that reads the holder's clock knows when the
/// entry lapses. Any other client must see it unchanged for a TTL, and may come just before it lapses.
fn takeover(wait: WaitMode, shared_clock: bool) -> TakeoverBound {
    let requests = Duration::from_secs(1);
    let constant = match wait {
        WaitMode::Poll { every } => requests + 4 * every,
        WaitMode::Push => requests,
    };
    TakeoverBound::new(if shared_clock { 100 } else { 200 }, 50, constant)
}

/// Returns whether an error of this kind can concern the state of one lock alone.
const fn is_about_one_lock(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Corrupt
            | ErrorKind::NewerFormat
            | ErrorKind::Config
            | ErrorKind::PermissionDenied
    )
}

/// Returns the TTL of the attempt's entry. A repeated enqueue does not change it.
fn granted_ttl(tx: &Transaction<'_>, request: &Enqueue) -> Duration {
    let entry = tx.queue.entry(request.attempt);
    entry.map_or(request.ttl, |entry| entry.ttl)
}

/// Renews and reports this client's entries at one lock with at most one swap. Sends the answers at
/// once: a lock whose blob does not answer must not delay the proofs of the other locks.
async fn renew_lock<S: BlobStore>(
    shared: &Shared<S>,
    name: &LockName,
    batch: &[(usize, Renewal)],
    answers: &RenewalAnswers,
) {
    // The locks may have been released while this renewal waited for a place (K3).
    if !batch.iter().any(|(index, _)| answers.is_wanted(*index)) {
        return;
    }
    let key = shared.key(name);
    let held = batch
        .iter()
        .any(|(_, renewal)| shared.attempts.is_holding(name, renewal.attempt));
    let shortest_ttl = batch.iter().map(|(_, renewal)| renewal.ttl).min();
    let contention = Contention::of_entry(shortest_ttl.unwrap_or_default(), held);
    let done = shared
        .transact(&key, contention, |tx| {
            batch
                .iter()
                .map(|(index, renewal)| {
                    // Asked again for each swap, because another client's swap can come in between.
                    if answers.is_wanted(*index) {
                        renew_one(shared, &key, tx, renewal)
                    } else {
                        Renewed::unanswered()
                    }
                })
                .collect::<Vec<_>>()
        })
        .await;
    let renewed = match done {
        Ok(done) => done.value,
        Err(error) => vec![Renewed::Unknown(shared.explain(error, name)); batch.len()],
    };
    for ((index, renewal), answer) in batch.iter().zip(renewed) {
        match answer {
            Renewed::Gone(_) => shared.forget(name, renewal.attempt),
            Renewed::Granted(_) => {
                shared
                    .attempts
                    .set_status(name, renewal.attempt, AttemptStatus::Holding);
            }
            _ => {}
        }
        answers.send(*index, answer);
    }
}

fn renew_one<S: BlobStore>(
    shared: &Shared<S>,
    key: &Key,
    tx: &mut Transaction<'_>,
    renewal: &Renewal,
) -> Renewed {
    let attempt = renewal.attempt;
    let entry = tx.queue.entry(attempt);
    let held = entry.and_then(|entry| entry.grant).map(|grant| grant.token);
    if entry.is_some() && renewal.token.is_some() && renewal.token != held {
        // The store was rolled back: the grant is gone, and this entry is a different one (L4).
        return Renewed::Gone(LossReason::Displaced);
    }
    if let Some(answer) = answer_without_write(shared, key, tx, renewal) {
        return answer;
    }
    let ttl = entry.map_or(renewal.ttl, |entry| entry.ttl);
    let from = tx.moment.clock;
    match tx.on(Event::Renew { attempt }) {
        Answer::Granted { .. } if renewal.token.is_some() => Renewed::Proved { from },
        Answer::Granted { token, floor } => {
            let mut grant = Grant::proved(attempt, token, ttl, from).with_floor(floor);
            grant.as_of = tx.next_as_of;
            Renewed::Granted(grant)
        }
        Answer::Waiting { ahead } => {
            let viewer = shared.viewer(key, &tx.moment);
            Renewed::Waiting(
                Waiting::new(from, tx.next_as_of)
                    .with_ahead(ahead as u64)
                    .with_holder(viewer.holder(tx.queue))
                    .with_recheck(viewer.recheck(tx.queue, attempt)),
            )
        }
        Answer::Gone(reason) => Renewed::Gone(reason),
        _ => Renewed::Gone(LossReason::Evicted),
    }
}

/// Returns the answer to a waiter whose entry does not need a refresh: it is less than a sixth of
/// its TTL old, and nothing that blocks others has expired. Polling therefore costs reads, not writes.
fn answer_without_write<S: BlobStore>(
    shared: &Shared<S>,
    key: &Key,
    tx: &Transaction<'_>,
    renewal: &Renewal,
) -> Option<Renewed> {
    let mut entries = tx.queue.entries();
    if tx.queue.has_lapsed_entries(&tx.moment.now) {
        return None;
    }
    let ahead = entries.position(|entry| entry.attempt == renewal.attempt)?;
    let entry = tx.queue.entry(renewal.attempt)?;
    if entry.grant.is_some() {
        return None;
    }
    let refreshed = shared.own_stamp(&entry.refreshed, tx.moment.clock)?;
    if tx.moment.clock.since(refreshed) >= entry.ttl / 6 {
        return None;
    }
    let viewer = shared.viewer(key, &tx.moment);
    Some(Renewed::Waiting(
        Waiting::new(refreshed, tx.as_of)
            .with_ahead(ahead as u64)
            .with_holder(viewer.holder(tx.queue))
            .with_recheck(viewer.recheck(tx.queue, renewal.attempt)),
    ))
}
