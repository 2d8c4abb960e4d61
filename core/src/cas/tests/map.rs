//! A store in a map that injects conflicts and lost answers, and its clients.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{super::*, TTL};
use crate::{
    backend::{EventHandler, EventSink},
    capability::{Durability, Evidence, LossEvidence, TakeoverBound, TtlRange, TtlScope, WaitMode},
    clock::{Clock, ManualClock},
    id::ClientId,
    name::Namespace,
    queue::ClockId,
};

/// A swap in flight: the path, the expected version and the bytes.
type Late = (String, Option<u64>, Vec<u8>);

/// The store that all clients of a test share.
#[derive(Debug, Default)]
pub(super) struct Map {
    pub(super) blobs: Mutex<BTreeMap<String, (u64, Vec<u8>)>>,
    pub(super) versions: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) swaps: AtomicU64,
    /// Number of swaps that fail as if another client had been faster.
    pub(super) conflicts: AtomicU32,
    /// Whether the next swap is executed and its answer lost.
    pub(super) lose_answer: AtomicU32,
    /// Whether the next swap is not executed and its answer lost.
    pub(super) lose_request: AtomicU32,
    pub(super) late: Mutex<Option<Late>>,
    /// The limits of the waits for a permit, and whether there had been a conflict.
    pub(super) permit_waits: Mutex<Vec<(Duration, bool)>>,
    /// Whether the waits end with a permit.
    pub(super) grants_permits: AtomicBool,
    /// Number of permits that were granted and are not returned.
    pub(super) permits: Arc<AtomicU32>,
    pub(super) wakes: Mutex<Vec<(ClientId, Key)>>,
    pub(super) woken: Notify,
}

impl Map {
    pub(super) fn swap(&self, path: &str, expected: Option<u64>, bytes: Vec<u8>) -> Swap {
        let mut blobs = self.blobs.lock().unwrap();
        if blobs.get(path).map(|(version, _)| *version) != expected {
            return Swap::Conflict;
        }
        let version = self.versions.fetch_add(1, Ordering::SeqCst) + 1;
        blobs.insert(path.to_owned(), (version, bytes));
        Swap::Swapped(Version::new(version.to_string()))
    }

    pub(super) fn overwrite(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut blobs = self.blobs.lock().unwrap();
        let (version, bytes) = blobs.get_mut(path).unwrap();
        *version = self.versions.fetch_add(1, Ordering::SeqCst) + 1;
        change(bytes);
    }
}

struct Permit(Arc<AtomicU32>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One client's connection.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) map: Arc<Map>,
    pub(super) client: ClientId,
    pub(super) clock: Option<ClockId>,
    pub(super) watched: Mutex<Vec<(LockName, bool)>>,
}

pub(super) fn take(counter: &AtomicU32) -> bool {
    counter
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
        .is_ok()
}

pub(super) fn no_answer() -> Error {
    Error::new(ErrorKind::OutcomeUnknown, "swapping")
}

#[async_trait]
impl BlobStore for Shared {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("map", "map:")
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        let every = Duration::from_millis(50);
        Ok(Capabilities::new(
            Durability::Volatile,
            WaitMode::Poll { every },
            LossEvidence::new(Evidence::NextRenewal, Evidence::NextRenewal),
            TtlRange::new(every, TTL, every, TtlScope::Lock),
            TakeoverBound::new(100, 50, every),
        ))
    }

    async fn read(&self, key: &Key) -> Result<Option<Versioned>, Error> {
        self.map.reads.fetch_add(1, Ordering::SeqCst);
        let blobs = self.map.blobs.lock().unwrap();
        Ok(blobs.get(&key.path()).map(|(version, bytes)| {
            Versioned::new(Version::new(version.to_string()), bytes.clone())
        }))
    }

    async fn compare_and_swap(
        &self,
        key: &Key,
        expected: Option<&Version>,
        bytes: Vec<u8>,
    ) -> Result<Swap, Error> {
        self.map.swaps.fetch_add(1, Ordering::SeqCst);
        let expected = expected.map(|version| version.as_str().parse().unwrap());
        if take(&self.map.conflicts) {
            return Ok(Swap::Conflict);
        }
        if take(&self.map.lose_request) {
            *self.map.late.lock().unwrap() = Some((key.path(), expected, bytes));
            return Err(no_answer());
        }
        let swap = self.map.swap(&key.path(), expected, bytes);
        if take(&self.map.lose_answer) {
            return Err(no_answer());
        }
        Ok(swap)
    }

    async fn read_to_swap(
        &self,
        key: &Key,
        limit: Duration,
        conflicted: bool,
    ) -> Result<(Option<Versioned>, Option<SwapPermit>), Error> {
        self.map
            .permit_waits
            .lock()
            .unwrap()
            .push((limit, conflicted));
        let permit = self.map.grants_permits.load(Ordering::SeqCst).then(|| {
            self.map.permits.fetch_add(1, Ordering::SeqCst);
            SwapPermit::new(Permit(Arc::clone(&self.map.permits)))
        });
        Ok((self.read(key).await?, permit))
    }

    async fn list(
        &self,
        namespace: &Namespace,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Names, Error> {
        let start = format!("{}/", namespace.encoded());
        let blobs = self.map.blobs.lock().unwrap();
        let mut names: Vec<_> = blobs
            .keys()
            .filter_map(|path| LockName::from_encoded(path.strip_prefix(&start)?))
            .filter(|name| name.as_str().starts_with(prefix))
            .filter(|name| cursor.is_none_or(|cursor| name.as_str() > cursor))
            .collect();
        names.sort();
        let more = names.len() > limit;
        names.truncate(limit);
        let next = names.last().filter(|_| more).map(ToString::to_string);
        Ok(Names::new(names, next))
    }

    fn clock_id(&self) -> Option<ClockId> {
        self.clock
    }

    fn watching(&self, key: &Key, on: bool) {
        self.watched.lock().unwrap().push((key.name.clone(), on));
    }

    async fn wake(&self, client: ClientId, key: &Key) {
        self.map.wakes.lock().unwrap().push((client, key.clone()));
        self.map.woken.notify_waiters();
    }

    async fn next_wake(&self) -> Wake {
        loop {
            let woken = self.map.woken.notified();
            {
                let mut wakes = self.map.wakes.lock().unwrap();
                let mine = wakes.iter().position(|(client, _)| *client == self.client);
                if let Some(mine) = mine {
                    return Wake::Lock(wakes.remove(mine).1.name);
                }
            }
            woken.await;
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Log(pub(super) Mutex<Vec<BackendEvent>>);

impl EventHandler for Log {
    fn handle(&self, event: BackendEvent) {
        self.0.lock().unwrap().push(event);
    }
}

pub(super) struct Client {
    pub(super) cas: Cas<Shared>,
    pub(super) clock: ManualClock,
    pub(super) log: Arc<Log>,
}

/// The identity of a shared clock, for clients with the same `ManualClock`.
pub(super) const SHARED: Option<ClockId> = Some(ClockId::new(77));

pub(super) fn client(
    map: &Arc<Map>,
    id: u128,
    clock: &ManualClock,
    clock_id: Option<ClockId>,
) -> Client {
    let context = |context: Context| context;
    client_with(map, id, clock, Arc::new(clock.clone()), clock_id, context).unwrap()
}

pub(super) fn client_with(
    map: &Arc<Map>,
    id: u128,
    manual: &ManualClock,
    clock: Arc<dyn Clock>,
    clock_id: Option<ClockId>,
    change: impl FnOnce(Context) -> Context,
) -> Result<Client, Error> {
    let log = Arc::new(Log::default());
    let handler: Arc<dyn EventHandler> = Arc::clone(&log) as _;
    let client = ClientId::from_u128(id);
    let context = Context::new(client, EventSink::new(Arc::downgrade(&handler)), clock);
    let store = Shared {
        map: Arc::clone(map),
        client,
        clock: clock_id,
        watched: Mutex::default(),
    };
    Ok(Client {
        cas: Cas::new(store, change(context))?,
        clock: manual.clone(),
        log,
    })
}
