//! Shared parts of the tests: clients of real servers, holders and waiters, and polling for a
//! condition.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    Acquisition, Client, Guard,
    backend::{Backend, BackendEvent, Connect, Context, EventHandler, EventSink},
    clock::SystemClock,
    error::Error,
    id::{AttemptId, ClientId},
    name::LockName,
    request::{Enqueue, Enqueued, Owner, Remove},
    settings::StoreUrl,
};
use tenure_test_servers::{
    wire::Proxy,
    zookeeper::{Cluster, Server, ServerBuilder},
};
use tenure_zookeeper::{Options, ZooKeeperStore};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// A limit for steps that take moments, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// The tick of the tests' servers.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// A short TTL, for tests that wait until it has passed.
pub(crate) const TTL: Duration = Duration::from_secs(2);
/// A TTL that does not lapse on a busy machine: the longest that the servers grant.
pub(crate) const LONG: Duration = Duration::from_secs(8);

/// The time limit for granting a dead holder's lock again, including the election of a leader.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

static ROOM: Semaphore = Semaphore::const_new(2);

/// Two tests run at a time: they measure time, and start up to three servers each.
pub(crate) async fn room() -> SemaphorePermit<'static> {
    ROOM.acquire().await.unwrap()
}

pub(crate) const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Confirmed writes are with the operating system, so they outlast the death of a server. They are not
/// synced to a disk that other processes may keep busy for seconds.
pub(crate) fn settings() -> ServerBuilder {
    Server::builder()
        .force_sync(false)
        .config("maxSessionTimeout", &LONG.as_millis().to_string())
}

pub(crate) fn server() -> Server {
    settings().start().unwrap()
}

pub(crate) fn cluster() -> Cluster {
    Cluster::builder().members(settings()).start().unwrap()
}

/// A proxy in front of each member, and the address of all of them.
pub(crate) fn proxies(cluster: &Cluster) -> (Vec<Proxy>, String) {
    let proxies: Vec<Proxy> = cluster
        .servers()
        .iter()
        .map(|server| Proxy::for_zookeeper(server.address()).unwrap())
        .collect();
    let addresses: Vec<String> = proxies.iter().map(Proxy::address).collect();
    let url = format!("zookeeper://{}", addresses.join(","));
    (proxies, url)
}

pub(crate) fn store(url: &str) -> ZooKeeperStore {
    let options = Options::default().tick(TICK);
    ZooKeeperStore::open(&StoreUrl::parse(url).unwrap(), options).unwrap()
}

/// A client of that address.
pub(crate) async fn client(url: &str) -> Client {
    client_for(url, TTL).await
}

pub(crate) async fn client_for(url: &str, ttl: Duration) -> Client {
    let begun = Instant::now();
    loop {
        match Client::builder(store(url)).ttl(ttl).connect().await {
            Ok(client) => return client,
            Err(error) => come_again(begun, SOON, &error).await,
        }
    }
}

/// On a busy machine a server may not answer in time.
async fn come_again(begun: Instant, bound: Duration, error: &Error) {
    assert!(error.is_retryable(), "{error}");
    assert!(begun.elapsed() < bound, "not within {bound:?}: {error}");
    sleep(millis(50)).await;
}

pub(crate) fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

/// Takes a lock that is free, with the first attempt that is answered.
pub(crate) async fn hold(client: &Client, lock: &str) -> Guard {
    let begun = Instant::now();
    let mut unknown = false;
    loop {
        match client.lock(lock).unwrap().try_acquire().await {
            Ok(Acquisition::Acquired(guard)) => return guard,
            // An earlier attempt holds it until that attempt is removed.
            Ok(_) if unknown && begun.elapsed() < SOON => sleep(millis(50)).await,
            Ok(busy) => panic!("{lock} is not free: {busy:?}"),
            Err(error) => {
                unknown = true;
                come_again(begun, SOON, &error).await;
            }
        }
    }
}

/// Waits for a lock in a task of its own. Aborting it is a cancelled acquire.
pub(crate) fn acquire(client: &Client, lock: &str) -> JoinHandle<Guard> {
    let lock = client.lock(lock).unwrap();
    tokio::spawn(async move { lock.acquire().await.unwrap() })
}

/// Takes a lock after a fault. Attempts may fail until the servers have recovered, never for good.
pub(crate) async fn regain(client: &Client, lock: &str, bound: Duration) -> Guard {
    let begun = Instant::now();
    loop {
        match client.lock(lock).unwrap().acquire().await {
            Ok(guard) => return guard,
            Err(error) => come_again(begun, bound, &error).await,
        }
    }
}

/// Waits for a lock under faults, in a task of its own.
pub(crate) fn acquire_through(client: &Client, lock: &'static str) -> JoinHandle<Guard> {
    let client = client.clone();
    tokio::spawn(async move { regain(&client, lock, 3 * SOON).await })
}

/// Returns once this many attempts wait.
pub(crate) async fn waiting(looker: &Client, lock: &str, count: usize) {
    waiting_within(SOON, looker, lock, count).await;
}

/// As [`waiting`], for a crowd.
pub(crate) async fn waiting_within(limit: Duration, looker: &Client, lock: &str, count: usize) {
    let begun = Instant::now();
    loop {
        let seen = looker.inspect(&name(lock)).await;
        let seen = seen.map(|state| state.queue.len());
        if matches!(seen, Ok(seen) if seen == count) {
            return;
        }
        assert!(
            begun.elapsed() < limit,
            "not {count} attempts wait: {seen:?}"
        );
        sleep(millis(5)).await;
    }
}

/// Returns once the lock has no holder and no waiter.
pub(crate) async fn idle(looker: &Client, lock: &str, bound: Duration) {
    let begun = Instant::now();
    loop {
        let state = looker.inspect(&name(lock)).await;
        if let Ok(state) = &state
            && state.holder.is_none()
            && state.queue.is_empty()
        {
            return;
        }
        assert!(begun.elapsed() < bound, "somebody is left: {state:?}");
        sleep(millis(5)).await;
    }
}

/// The outcome of a waiter's task.
pub(crate) async fn granted(what: &str, bound: Duration, task: JoinHandle<Guard>) -> Guard {
    within(what, bound, task).await.unwrap()
}

pub(crate) async fn within<T>(what: &str, bound: Duration, future: impl Future<Output = T>) -> T {
    timeout(bound, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {bound:?}"))
}

/// Polls until a condition holds.
pub(crate) async fn until(what: &str, bound: Duration, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < bound, "{what}: not within {bound:?}");
        sleep(millis(5)).await;
    }
}

/// A driver without a client above it: it sends the requests of the test only.
pub(crate) struct Raw {
    pub(crate) backend: Arc<dyn Backend>,
    _hears: Arc<Deaf>,
}

#[derive(Default)]
struct Deaf;

impl EventHandler for Deaf {
    fn handle(&self, _: BackendEvent) {}
}

impl Raw {
    pub(crate) async fn connect(url: &str) -> Self {
        Self::connect_for(url, Duration::from_secs(5)).await
    }

    /// With this time limit for each request.
    pub(crate) async fn connect_for(url: &str, request_timeout: Duration) -> Self {
        let hears = Arc::<Deaf>::default();
        let handler: Arc<dyn EventHandler> = Arc::<Deaf>::clone(&hears);
        let events = EventSink::new(Arc::downgrade(&handler));
        let id = ClientId::random().unwrap();
        let context =
            Context::new(id, events, Arc::new(SystemClock)).with_request_timeout(request_timeout);
        let backend = store(url).connect(context).await.unwrap();
        Self {
            backend,
            _hears: hears,
        }
    }

    /// Takes a free lock. On a busy machine the server may not answer in time; such an attempt is
    /// removed before the next one.
    pub(crate) async fn hold(&self, lock: &str) {
        let begun = Instant::now();
        loop {
            let attempt = AttemptId::random().unwrap();
            let entered = self.backend.enqueue(Self::enqueue(lock, attempt)).await;
            let Err(error) = entered else {
                assert!(matches!(entered, Ok(Enqueued::Granted(_))), "{entered:?}");
                return;
            };
            come_again(begun, SOON, &error).await;
            let remove = || Remove::new(name(lock), attempt, TTL, false);
            while let Err(error) = self.backend.remove(remove()).await {
                come_again(begun, SOON, &error).await;
            }
        }
    }

    pub(crate) fn enqueue(lock: &str, attempt: AttemptId) -> Enqueue {
        Enqueue::new(name(lock), attempt, Owner::default(), TTL, true)
    }
}
