//! Shared helpers: clients of a real server, holders and waiters, and polling for a condition.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tenure_core::{
    Acquisition, Client, ClientBuilder, Guard,
    backend::{Backend, BackendEvent, Connect, Context, EventHandler, EventSink, RenewalAnswers},
    clock::SystemClock,
    id::{AttemptId, ClientId},
    mode::Mode,
    name::LockName,
    request::{Enqueue, Enqueued, Grant, Owner, Remove, Removed, Renewal, Renewed},
    settings::StoreUrl,
    token::FencingToken,
};
use tenure_redis::{Options, RedisStore};
use tenure_test_servers::{redis::Server, wire::Proxy};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// The timeout for operations that take moments, with slack for a busy machine.
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

/// A client of this URL, not yet connected.
pub(crate) fn builder(url: &str) -> ClientBuilder {
    Client::builder(store(url, Options::default()))
}

/// A client of this URL with this default TTL.
pub(crate) async fn client(url: &str, ttl: Duration) -> Client {
    let deadline = Instant::now() + OPERATION_TIMEOUT;
    loop {
        match builder(url).ttl(ttl).connect().await {
            Ok(client) => return client,
            // On an overloaded machine, a server may take a moment to answer.
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

/// The key of a lock in the default namespace.
pub(crate) fn key(lock: &str, part: &str) -> String {
    format!("tenure:{{default:{}}}:{part}", name(lock).encoded())
}

/// Acquires a lock that is free.
pub(crate) async fn hold(client: &Client, lock: &str) -> Guard {
    match client.lock(lock).unwrap().try_acquire().await.unwrap() {
        Acquisition::Acquired(guard) => guard,
        busy => panic!("{lock} is not free: {busy:?}"),
    }
}

/// Acquires many locks, a hundred at a time.
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

/// Waits for a lock in its own task. Aborting the task cancels the acquire.
pub(crate) fn acquire(client: &Client, lock: &str) -> JoinHandle<Guard> {
    let lock = client.lock(lock).unwrap();
    tokio::spawn(async move { lock.acquire().await.unwrap() })
}

/// Like [`acquire`]; returns when the waiter is at this position behind the holder and has received
/// the reply to its enqueue.
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
    // On one connection, the reply to the enqueue comes before the reply to this request.
    connected(client).await;
    task
}

/// The number of entries in a lock's queue, including lapsed ones.
pub(crate) fn queue_length(server: &Server, lock: &str) -> usize {
    let length = server.text(&["ZCARD", &key(lock, "queue")]).unwrap();
    length.parse().unwrap()
}

/// The guard of a waiter's task.
pub(crate) async fn expect_granted(what: &str, bound: Duration, task: JoinHandle<Guard>) -> Guard {
    within(what, bound, task).await.unwrap()
}

pub(crate) async fn within<T>(what: &str, bound: Duration, future: impl Future<Output = T>) -> T {
    timeout(bound, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {bound:?}"))
}

/// Polls until the condition holds.
pub(crate) async fn wait_until(what: &str, bound: Duration, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < bound, "{what}: not within {bound:?}");
        sleep(millis(5)).await;
    }
}

/// The number of script calls that the server has received.
pub(crate) fn scripts_run(server: &Server) -> u64 {
    let calls = |name: &str| {
        let stat = server.info(&format!("cmdstat_{name}")).unwrap();
        let stat = stat.unwrap_or_default();
        let calls = stat.split(',').find_map(|part| part.strip_prefix("calls="));
        calls.map_or(0, |calls| calls.parse().unwrap())
    };
    calls("evalsha") + calls("eval")
}

/// The keys that match a pattern.
pub(crate) fn keys(server: &Server, pattern: &str) -> Vec<String> {
    let keys = server.text(&["KEYS", pattern]).unwrap();
    keys.lines().map(str::to_owned).collect()
}

/// An acquire whose first enqueue gets no reply, and which ends when a repeated one is answered. Returns when
/// the attempt is removed and fenced off.
pub(crate) async fn acquire_without_reply(server: &Server, client: &Client, lock: &str) {
    let fences = key(lock, "fenced:*");
    let before = keys(server, &fences).len();
    let lock = client.lock(lock).unwrap();
    let waits = Notify::new();
    tokio::select! {
        outcome = lock.acquire_observed(None, |_| waits.notify_one()) => {
            let guard = outcome.unwrap().acquired().unwrap();
            let _ = guard.release().await;
        }
        () = waits.notified() => {}
    }
    wait_until("the attempt is fenced off", OPERATION_TIMEOUT, || {
        keys(server, &fences).len() > before
    })
    .await;
}

/// A driver without a client above it. It sends only what the test requests, like a client that has
/// died or misbehaves.
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

    /// The events received so far.
    pub(crate) fn events(&self) -> Vec<BackendEvent> {
        self.recorded.0.lock().unwrap().clone()
    }

    pub(crate) fn enqueue(lock: &str, attempt: AttemptId, ttl: Duration) -> Enqueue {
        Enqueue::new(name(lock), attempt, Owner::default(), ttl, true)
    }
}

/// The TTL of the attempts of a [`RawBackend`].
pub(crate) const RAW_TTL: Duration = seconds(60);

pub(crate) fn attempt(number: u128) -> AttemptId {
    AttemptId::from_u128(number)
}

impl RawBackend {
    pub(crate) async fn enqueue_mode(&self, lock: &str, number: u128, mode: Mode) -> Enqueued {
        let request = Self::enqueue(lock, attempt(number), RAW_TTL).with_mode(mode);
        self.backend.enqueue(request).await.unwrap()
    }

    pub(crate) async fn granted(&self, lock: &str, number: u128, mode: Mode) -> Grant {
        match self.enqueue_mode(lock, number, mode).await {
            Enqueued::Granted(grant) => grant,
            other => panic!("{lock} is not free for {mode}: {other:?}"),
        }
    }

    pub(crate) async fn waits(&self, lock: &str, number: u128, mode: Mode) {
        let answer = self.enqueue_mode(lock, number, mode).await;
        assert!(matches!(answer, Enqueued::Waiting(_)), "{answer:?}");
    }

    pub(crate) async fn remove(&self, lock: &str, number: u128) -> Removed {
        let request = Remove::new(name(lock), attempt(number), RAW_TTL, true);
        self.backend.remove(request).await.unwrap()
    }

    pub(crate) async fn renew(
        &self,
        lock: &str,
        number: u128,
        token: Option<FencingToken>,
    ) -> Renewed {
        let entry =
            Renewal::new(name(lock), attempt(number), RAW_TTL, token).with_mode(Mode::Shared);
        let answers =
            RenewalAnswers::collect(1, |answers| self.backend.renew(vec![entry], answers));
        answers.await.pop().unwrap()
    }

    pub(crate) fn grants(&self) -> Vec<Grant> {
        let events = self.events().into_iter();
        let grants = events.filter_map(|event| match event {
            BackendEvent::Granted(grant) => Some(grant),
            _ => None,
        });
        grants.collect()
    }
}

/// Returns when the client's connection carries requests.
pub(crate) async fn connected(client: &Client) {
    let free = name("unused");
    let begun = Instant::now();
    while let Err(error) = client.inspect(&free).await {
        assert!(
            begun.elapsed() < OPERATION_TIMEOUT,
            "not reconnected: {error}"
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

/// A path to the server that can hold bytes back. After [`bypass`](Self::bypass), the requests of
/// existing connections wait in a delayed part of the path, and new connections avoid it.
/// [`release`](Self::release) lets the delayed requests reach the server, long after their client
/// has given them up.
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

    /// From now on, nothing passes on the existing connections.
    pub(crate) fn bypass(&self) {
        self.delayed.reset();
        self.delayed.hold_requests();
        self.front.set_target(self.direct.as_str()).unwrap();
    }

    /// Waits until a script call is held back, and then disconnects its client from the delayed
    /// part.
    pub(crate) async fn cut_after_script_sent(&self) {
        wait_until("a script call is held back", OPERATION_TIMEOUT, || {
            self.delayed.count("EVALSHA") > 0
        })
        .await;
        self.front.cut().unwrap();
    }

    /// Lets the delayed requests reach the server. Returns when the server has executed them.
    pub(crate) async fn release(&self, server: &Server) {
        let before = scripts_run(server);
        let stuck = self.delayed.count("EVALSHA") as u64;
        assert!(stuck > 0, "no script call is held back");
        self.delayed.release_requests();
        wait_until("the late calls are executed", OPERATION_TIMEOUT, || {
            scripts_run(server) >= before + stuck
        })
        .await;
    }
}
