//! What the tests share: clients of a real server, holders and waiters, and looking until something
//! is so.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tenure_core::{
    Acquisition, Client, ClientBuilder, Guard,
    backend::{Backend, BackendEvent, Connect, Context, EventHandler, EventSink},
    clock::SystemClock,
    id::{AttemptId, ClientId},
    name::LockName,
    request::{Enqueue, Owner},
    settings::StoreUrl,
};
use tenure_redis::{Options, RedisStore};
use tenure_test_servers::{redis::Server, wire::Proxy};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// For what takes moments, on a busy machine.
pub(crate) const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(crate) const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) fn store(url: &str, options: Options) -> RedisStore {
    RedisStore::open(&StoreUrl::parse(url).unwrap(), options).unwrap()
}

/// A client of that address, not yet connected.
pub(crate) fn builder(url: &str) -> ClientBuilder {
    Client::builder(store(url, Options::default()))
}

/// A client of that address whose locks have that TTL.
pub(crate) async fn client(url: &str, ttl: Duration) -> Client {
    let deadline = Instant::now() + OPERATION_TIMEOUT;
    loop {
        match builder(url).ttl(ttl).connect().await {
            Ok(client) => return client,
            // On a machine that stands still, the servers may take a moment to answer.
            Err(error) if error.is_retryable() && Instant::now() < deadline => {
                sleep(millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

/// A key of a lock in the default namespace, as the server knows it.
pub(crate) fn key(lock: &str, part: &str) -> String {
    format!("tenure:{{default:{}}}:{part}", name(lock).encoded())
}

/// Takes a lock that is free.
pub(crate) async fn hold(client: &Client, lock: &str) -> Guard {
    match client.lock(lock).unwrap().try_acquire().await.unwrap() {
        Acquisition::Acquired(guard) => guard,
        busy => panic!("{lock} is not free: {busy:?}"),
    }
}

/// Takes many locks at once, a hundred at a time.
pub(crate) async fn hold_all(client: &Client, locks: &[String]) -> Vec<Guard> {
    let mut guards = Vec::with_capacity(locks.len());
    for part in locks.chunks(100) {
        let tasks: Vec<_> = part
            .iter()
            .map(|lock| {
                let (client, lock) = (client.clone(), lock.clone());
                tokio::spawn(async move { hold(&client, &lock).await })
            })
            .collect();
        for task in tasks {
            guards.push(task.await.unwrap());
        }
    }
    guards
}

/// Waits for a lock in a task of its own. Aborting it is a cancelled acquire.
pub(crate) fn acquire(client: &Client, lock: &str) -> JoinHandle<Guard> {
    let lock = client.lock(lock).unwrap();
    tokio::spawn(async move { lock.acquire().await.unwrap() })
}

/// As [`acquire`], and returns when it is in the queue, as the one of that place behind the holder,
/// and knows it.
pub(crate) async fn enqueue_waiter(
    server: &Server,
    client: &Client,
    lock: &str,
    place: usize,
) -> JoinHandle<Guard> {
    let task = acquire(client, lock);
    wait_until("the waiter is in the queue", OPERATION_TIMEOUT, || {
        queue_length(server, lock) == place
    })
    .await;
    // Its own answer comes before this one's, on one connection.
    connected(client).await;
    task
}

/// How many entries a lock's queue has, dead or alive.
pub(crate) fn queue_length(server: &Server, lock: &str) -> usize {
    let length = server.text(&["ZCARD", &key(lock, "queue")]).unwrap();
    length.parse().unwrap()
}

/// What a waiter's task came to.
pub(crate) async fn expect_granted(what: &str, bound: Duration, task: JoinHandle<Guard>) -> Guard {
    within(what, bound, task).await.unwrap()
}

pub(crate) async fn within<T>(what: &str, bound: Duration, future: impl Future<Output = T>) -> T {
    timeout(bound, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {bound:?}"))
}

/// Looks until it is so.
pub(crate) async fn wait_until(what: &str, bound: Duration, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < bound, "{what}: not within {bound:?}");
        sleep(millis(5)).await;
    }
}

/// How many scripts the server has been asked to run.
pub(crate) fn scripts_run(server: &Server) -> u64 {
    let calls = |name: &str| {
        let stat = server.info(&format!("cmdstat_{name}")).unwrap();
        let stat = stat.unwrap_or_default();
        let calls = stat.split(',').find_map(|part| part.strip_prefix("calls="));
        calls.map_or(0, |calls| calls.parse().unwrap())
    };
    calls("evalsha") + calls("eval")
}

/// The keys of a pattern.
pub(crate) fn keys(server: &Server, pattern: &str) -> Vec<String> {
    let keys = server.text(&["KEYS", pattern]).unwrap();
    keys.lines().map(str::to_owned).collect()
}

/// A driver without a client above it: it sends what it is told and no more, as a client does that
/// has died or gone mad.
pub(crate) struct RawBackend {
    pub(crate) backend: Arc<dyn Backend>,
    recorded: Arc<RecordedEvents>,
}

#[derive(Default)]
struct RecordedEvents(Mutex<Vec<BackendEvent>>);

impl EventHandler for RecordedEvents {
    fn handle(&self, event: BackendEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl RawBackend {
    pub(crate) async fn connect(url: &str, options: Options) -> Self {
        let recorded = Arc::<RecordedEvents>::default();
        let handler: Arc<dyn EventHandler> = Arc::<RecordedEvents>::clone(&recorded);
        let events = EventSink::new(Arc::downgrade(&handler));
        let id = ClientId::random().unwrap();
        let context = Context::new(id, events, Arc::new(SystemClock));
        let backend = store(url, options).connect(context).await.unwrap();
        Self { backend, recorded }
    }

    /// What it was told so far.
    pub(crate) fn events(&self) -> Vec<BackendEvent> {
        self.recorded.0.lock().unwrap().clone()
    }

    pub(crate) fn enqueue(lock: &str, attempt: AttemptId, ttl: Duration) -> Enqueue {
        Enqueue::new(name(lock), attempt, Owner::default(), ttl, true)
    }
}

/// Returns when the client's connection carries requests.
pub(crate) async fn connected(client: &Client) {
    let free = name("nobody has this one");
    let begun = Instant::now();
    while let Err(error) = client.inspect(&free).await {
        assert!(
            begun.elapsed() < OPERATION_TIMEOUT,
            "not connected again: {error}"
        );
        sleep(millis(2)).await;
    }
}

/// Whether a lock has neither a holder nor a queue on the server.
pub(crate) fn is_unused(server: &Server, lock: &str) -> bool {
    let parts = ["holder", "queue", "entries"].map(|part| key(lock, part));
    let exists = server
        .text(&["EXISTS", &parts[0], &parts[1], &parts[2]])
        .unwrap();
    exists == "0"
}

/// A way to the server on which bytes can stay behind: those of connections made before
/// [`bypass`](Self::bypass) wait on a slow part of the way, while new connections go past it. What
/// waits reaches the server when it is [let go](Self::let_go), although its client has long given it
/// up.
pub(crate) struct DelayedPath {
    front: Proxy,
    delayed: Proxy,
    direct: String,
}

impl DelayedPath {
    pub(crate) fn start(server: &Server) -> Self {
        let delayed = Proxy::start(server.address()).unwrap();
        Self {
            front: Proxy::start(delayed.address()).unwrap(),
            delayed,
            direct: server.address(),
        }
    }

    pub(crate) fn url(&self) -> String {
        self.front.url()
    }

    /// From now on nothing gets through on the connections that there are.
    pub(crate) fn bypass(&self) {
        self.delayed.reset();
        self.delayed.hold_requests();
        self.front.set_target(self.direct.as_str()).unwrap();
    }

    /// Returns when a script waits on the slow part, and cuts its client off from it.
    pub(crate) async fn cut_after_script_sent(&self) {
        wait_until("a script is under way", OPERATION_TIMEOUT, || {
            self.delayed.count("EVALSHA") > 0
        })
        .await;
        self.front.cut().unwrap();
    }

    /// Lets what waits reach the server, and returns when that has carried it out.
    pub(crate) async fn release(&self, server: &Server) {
        let before = scripts_run(server);
        let stuck = self.delayed.count("EVALSHA") as u64;
        assert!(stuck > 0, "nothing is late");
        self.delayed.release_requests();
        wait_until("what was late is carried out", OPERATION_TIMEOUT, || {
            scripts_run(server) >= before + stuck
        })
        .await;
    }
}
