//! The transaction: read, decode, apply events to the queue, encode and swap; retry on a conflict.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    attempts::{AttemptStatus, Attempts},
    blob::{self, LockRecord},
    observed::Observed,
    store::{BlobStore, Key, Swap, Version, Versioned},
    view::Viewer,
};
use crate::{
    backend::{BackendEvent, Context},
    clock::Instant,
    error::{Error, ErrorKind},
    id::{AttemptId, ClientId},
    name::LockName,
    queue::{Answer, ClockId, Event, Notice, NoticeKind, Now, Queue, Stamp, Step},
    request::{Grant, StoreTime},
};

/// Maximum number of states that are cached after a swap, so that the next swap needs no read.
const MAX_CACHED_STATES: usize = 256;
/// More consecutive conflicts than this are not contention but a defect.
const MAX_CONFLICTS: u32 = 1000;
/// Number of conflicts after which a holder waits for a permit. Its swap frees the lock for the
/// waiters or keeps it from expiring, so it does not wait behind clients that only enter the queue.
const HOLDER_CONFLICTS: u32 = 8;
/// Maximum backoff after a conflict, for a client that has no permit.
const MAX_BACKOFF: Duration = Duration::from_millis(256);

/// How a transaction competes with those of other clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contention {
    /// Number of conflicts after which it reads with a permit.
    conflicts: u32,
    /// The longest wait for the permit.
    permit_wait: Duration,
    /// Whether the attempt holds the lock, so that its cached state is probably the current one.
    held: bool,
}

impl Contention {
    /// For a change that no deadline of an entry limits. `writes` tells whether it most probably
    /// writes; a mere read needs no permit.
    pub(super) fn of_enqueue<S>(shared: &Shared<S>, writes: bool) -> Self {
        Self {
            conflicts: u32::from(!writes),
            permit_wait: shared.context.request_timeout,
            held: false,
        }
    }

    /// For a change of an entry with this TTL. An entry is renewed every third of its TTL, so a
    /// tenth of it does not endanger the entry.
    pub(super) fn of_entry(ttl: Duration, held: bool) -> Self {
        Self {
            conflicts: if held { HOLDER_CONFLICTS } else { 0 },
            permit_wait: ttl / 10,
            held,
        }
    }
}

/// One reading of the clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockReading {
    /// The client's clock, as `proved_from` reports it.
    pub(super) clock: Instant,
    /// The same moment, as the queue receives it.
    pub(super) now: Now,
}

/// A transaction on a state that was read.
#[derive(Debug)]
pub(super) struct Transaction<'a> {
    /// The state to change.
    pub(super) queue: &'a mut Queue,
    /// When the state was read.
    pub(super) moment: ClockReading,
    /// When the state was published.
    pub(super) as_of: StoreTime,
    /// When the new state is published, if the transaction publishes one.
    pub(super) next_as_of: StoreTime,
    notices: Vec<Notice>,
    write: bool,
}

impl Transaction<'_> {
    /// Applies an event to the queue.
    pub(super) fn on(&mut self, event: Event) -> Answer {
        let Step {
            answer,
            notices,
            changed,
        } = self.queue.on(event, &self.moment.now);
        self.notices.extend(notices);
        self.write |= changed;
        answer
    }

    /// Requests the publication of a new version even if nothing changed.
    pub(super) const fn write(&mut self) {
        self.write = true;
    }
}

/// The outcome of a transaction.
#[derive(Debug)]
pub(super) struct TxOutcome<T> {
    pub(super) value: T,
    pub(super) state: Arc<LockRecord>,
}

#[derive(Debug)]
pub(super) struct Shared<S> {
    pub(super) store: S,
    pub(super) context: Context,
    pub(super) attempts: Attempts,
    pub(super) observed: Observed,
    own_clock: ClockId,
    /// Whether other clients read the same clock as this one. The first client that sees an entry
    /// of an earlier boot then stamps it with the shared clock, and any client finds it dead one
    /// TTL later: no client needs to keep observing it.
    shares_clock: bool,
    cached: Mutex<HashMap<LockName, (Version, Arc<LockRecord>)>>,
}

impl<S: BlobStore> Shared<S> {
    pub(super) fn new(store: S, context: Context) -> Result<Self, Error> {
        if context.token_floor.get() >= 1 << 61 {
            return Err(
                Error::new(ErrorKind::Config, "connecting").with_detail(format!(
                    "a token floor of {} leaves no room for tokens; it must be below 2^61",
                    context.token_floor
                )),
            );
        }
        let shares_clock = store.clock_id().is_some();
        let own_clock = match store.clock_id() {
            Some(shared) => shared,
            None => ClockId::new(ClientId::random()?.as_u128()),
        };
        Ok(Self {
            store,
            context,
            attempts: Attempts::default(),
            observed: Observed::new(own_clock),
            own_clock,
            shares_clock,
            cached: Mutex::default(),
        })
    }

    /// Adds the backend and the lock to an error.
    pub(super) fn explain(&self, error: Error, name: &LockName) -> Error {
        error
            .with_backend(self.store.info().scheme)
            .with_lock(name.clone())
    }

    pub(super) fn key(&self, name: &LockName) -> Key {
        Key::new(self.context.namespace.clone(), name.clone())
    }

    pub(super) fn viewer<'a>(&'a self, key: &'a Key, moment: &'a ClockReading) -> Viewer<'a> {
        Viewer {
            key,
            observed: &self.observed,
            moment,
        }
    }

    /// Reads the clocks. Called after the state was read and before it is published. So stamps of
    /// one clock never decrease from one version to the next, and a process that is stopped in
    /// between publishes an old stamp, by which other clients correctly let it expire.
    pub(super) fn read_clocks(&self) -> ClockReading {
        let clock = self.context.clock.now();
        let wall_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|since| u64::try_from(since.as_micros()).ok())
            .unwrap_or(0);
        let floor = wall_us.max(self.context.token_floor.get() + 1);
        let stamp = Stamp::new(self.own_clock, clock.since_origin());
        ClockReading {
            clock,
            now: Now::new(stamp, wall_us, floor),
        }
    }

    /// Reads the state of a lock from the store. The version is `None` if the lock has no state.
    pub(super) async fn read(&self, key: &Key) -> Result<(Option<Version>, LockRecord), Error> {
        let blob = self.store.read(key).await?;
        self.decode(key, blob)
    }

    fn decode(
        &self,
        key: &Key,
        blob: Option<Versioned>,
    ) -> Result<(Option<Version>, LockRecord), Error> {
        let Some(blob) = blob else {
            return Ok((None, LockRecord::default()));
        };
        let state = blob::decode(key, &blob.bytes).map_err(|invalid| {
            let advice = match invalid.kind {
                // Clients of the newer version may hold the lock.
                ErrorKind::NewerFormat => "update this program".to_owned(),
                _ => format!(
                    "no client can hold this lock until the state is restored; to free the lock, delete {}",
                    self.store.to_delete(key)
                ),
            };
            let location = self.store.location(key);
            Error::new(invalid.kind, "reading the state of a lock")
                .with_detail(format!("{location}: {invalid}; {advice}"))
        })?;
        Ok((Some(blob.version), state))
    }

    /// Changes the state of a lock with `decide`, and retries until no other client changed it
    /// concurrently. An answer without a publication always depends on a fresh read.
    pub(super) async fn transact<T: Send>(
        &self,
        key: &Key,
        contention: Contention,
        mut decide: impl FnMut(&mut Transaction<'_>) -> T + Send,
    ) -> Result<TxOutcome<T>, Error> {
        let started = self.context.clock.now();
        let mut cached = self.take_cached(&key.name).filter(|(_, state)| {
            // In a queue of others, somebody else has most probably changed the state since.
            contention.held || state.queue.entries().len() <= 1
        });
        let mut conflicts = 0;
        let mut permit = None;
        loop {
            let from_memory = cached.is_some();
            let (version, before) = match cached.take() {
                Some((version, state)) => (Some(version), Arc::unwrap_or_clone(state)),
                None if permit.is_some() || conflicts < contention.conflicts => {
                    self.read(key).await?
                }
                None => {
                    let limit = contention.permit_wait;
                    let read = self.store.read_to_swap(key, limit, conflicts > 0);
                    let (blob, new_permit) = read.await?;
                    permit = new_permit;
                    self.decode(key, blob)?
                }
            };
            let moment = self.read_clocks();
            let mut state = before;
            let as_of = state.as_of();
            let generation = (state.generation + 1).max(moment.now.wall_us);
            let mut tx = Transaction {
                queue: &mut state.queue,
                moment,
                as_of,
                next_as_of: StoreTime::new(generation),
                notices: Vec::new(),
                write: false,
            };
            let dead = self.observed.observe(key, tx.queue, moment.clock);
            for (attempt, beat) in dead {
                tx.on(Event::Lapsed { attempt, beat });
            }
            if self.shares_clock {
                for (attempt, beat) in self.observed.foreign_entries(tx.queue) {
                    tx.on(Event::Adopt { attempt, beat });
                }
            }
            let value = decide(&mut tx);
            let Transaction { notices, write, .. } = tx;
            if !write {
                if from_memory {
                    continue;
                }
                let state = Arc::new(state);
                return Ok(TxOutcome { value, state });
            }
            state.generation = generation;
            let bytes = blob::encode(key, &state).map_err(|source| {
                Error::new(ErrorKind::Unsupported, "writing the state of a lock")
                    .with_detail("the state cannot be encoded; this is a bug in tenure")
                    .with_source(source)
            })?;
            let swap = self.store.compare_and_swap(key, version.as_ref(), bytes);
            if let Swap::Swapped(version) = swap.await? {
                drop(permit);
                let state = Arc::new(state);
                self.cache(&key.name, version, Arc::clone(&state));
                self.notify(key, &notices, &state).await;
                return Ok(TxOutcome { value, state });
            }
            if !from_memory {
                conflicts += 1;
                let waited = self.context.clock.now().since(started);
                if conflicts > MAX_CONFLICTS || waited > self.context.request_timeout {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        "changing the state of a lock",
                    )
                    .with_detail(format!(
                        "{}: {conflicts} consecutive conflicts with other clients; try again",
                        self.store.location(key)
                    )));
                }
                back_off(conflicts, permit.is_some()).await;
            }
        }
    }

    /// Rechecks a lock after the store reported a change, and reports changes of this client's
    /// attempts.
    pub(super) async fn recheck(&self, name: &LockName) {
        let attempts = self.attempts.at(name);
        if attempts.is_empty() {
            return;
        }
        let key = self.key(name);
        let state = match self.read(&key).await {
            Ok((version, state)) => {
                let state = Arc::new(state);
                // A new holder renews at once.
                if let Some(version) = version {
                    self.cache(name, version, Arc::clone(&state));
                }
                state
            }
            Err(error) => {
                tracing::debug!(%error, "could not read a lock that changed");
                return;
            }
        };
        let moment = self.read_clocks();
        for (attempt, status) in attempts {
            match state.queue.entry(attempt) {
                Some(_) => self.report_grant(name, attempt, &state),
                None if status == AttemptStatus::Sent => {}
                None => {
                    let mut copy = state.queue.clone();
                    let answer = copy.on(Event::Renew { attempt }, &moment.now).answer;
                    if let Answer::Gone(reason) = answer {
                        self.report_loss(name, attempt, reason);
                    }
                }
            }
        }
    }

    /// Notifies the clients that a swap concerns: this client's attempts by events, other clients
    /// through the store.
    async fn notify(&self, key: &Key, notices: &[Notice], state: &LockRecord) {
        let mut notified = Vec::new();
        for notice in notices {
            if notice.client != self.context.client {
                if !notified.contains(&notice.client) {
                    notified.push(notice.client);
                }
                continue;
            }
            match notice.kind {
                NoticeKind::Granted { .. } => self.report_grant(&key.name, notice.attempt, state),
                NoticeKind::Lost(reason) => self.report_loss(&key.name, notice.attempt, reason),
            }
        }
        for client in notified {
            self.store.wake(client, key).await;
        }
    }

    /// Tells all holders of a lock that they hold it, in case an earlier swap has not told them.
    pub(super) async fn wake_holders(&self, key: &Key, queue: &Queue) {
        let clients: BTreeSet<_> = queue.holders().map(|entry| entry.client).collect();
        for client in clients {
            if client == self.context.client {
                self.recheck(&key.name).await;
            } else {
                self.store.wake(client, key).await;
            }
        }
    }

    fn report_grant(&self, name: &LockName, attempt: AttemptId, state: &LockRecord) {
        let Some(entry) = state.queue.entry(attempt) else {
            return;
        };
        let Some(record) = entry.grant else { return };
        // The client that handed the lock over, on another clock, could not know it (W4).
        if entry.has_lapsed(&self.read_clocks().now) {
            return;
        }
        if !self
            .attempts
            .set_status(name, attempt, AttemptStatus::Holding)
        {
            return;
        }
        // The core counts the grant from the last answered report (D4).
        let floor = state.queue.floor().unwrap_or(record.token);
        let grant =
            Grant::pushed(attempt, record.token, entry.ttl, state.as_of()).with_floor(floor);
        self.context.events.send(BackendEvent::Granted(grant));
    }

    fn report_loss(&self, name: &LockName, attempt: AttemptId, reason: crate::loss::LossReason) {
        let registered = self.attempts.at(name).iter().any(|(id, _)| *id == attempt);
        if registered {
            self.forget(name, attempt);
            self.context
                .events
                .send(BackendEvent::Lost { attempt, reason });
        }
    }

    /// Registers an attempt before its first request is sent.
    pub(super) fn register(&self, name: &LockName, attempt: AttemptId) {
        if self.attempts.add(name, attempt) {
            self.store.watching(&self.key(name), true);
        }
    }

    /// Forgets an attempt. From now on no event about it is sent.
    pub(super) fn forget(&self, name: &LockName, attempt: AttemptId) {
        if self.attempts.forget(name, attempt) {
            self.store.watching(&self.key(name), false);
        }
    }

    /// Returns the moment of a stamp that this client's clock made. A stamp in the future is
    /// rejected as untrusted.
    pub(super) fn own_stamp(&self, stamp: &Stamp, now: Instant) -> Option<Instant> {
        let at = Instant::from_origin(stamp.at);
        (stamp.clock == self.own_clock && at <= now).then_some(at)
    }

    fn take_cached(&self, name: &LockName) -> Option<(Version, Arc<LockRecord>)> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.remove(name)
    }

    fn cache(&self, name: &LockName, version: Version, state: Arc<LockRecord>) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.len() >= MAX_CACHED_STATES {
            cached.clear();
        }
        cached.insert(name.clone(), (version, state));
    }
}

/// Backs off after a conflict: the first two only yield, later ones sleep for a random time whose
/// bound grows. A client with the permit competes with few others and only yields.
async fn back_off(conflicts: u32, has_permit: bool) {
    if conflicts <= 2 || has_permit {
        tokio::task::yield_now().await;
        return;
    }
    let most = Duration::from_micros(250 << conflicts.min(16)).min(MAX_BACKOFF);
    let most_us = u64::try_from(most.as_micros()).unwrap_or(1);
    let random = getrandom::u64().unwrap_or(most_us);
    tokio::time::sleep(Duration::from_micros(random % most_us + 1)).await;
}
