//! Helpers that the tests share: clients of real servers, holders and waiters, and waiting for a
//! condition.

use std::{process::Command, sync::Arc, time::Duration};

use tenure_core::{
    Acquisition, Client, ClientBuilder, Guard,
    backend::{Backend, BackendEvent, Connect, Context, EventHandler, EventSink},
    clock::SystemClock,
    id::ClientId,
    name::LockName,
    settings::StoreUrl,
};
use tenure_etcd::{EtcdStore, Options};
use tenure_test_servers::{etcd::Cluster, wire::Proxy};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// The time limit for what takes moments, on a busy machine.
pub(crate) const WAIT_LIMIT: Duration = Duration::from_secs(20);

pub(crate) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(crate) const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) fn store(url: &str, options: Options) -> EtcdStore {
    EtcdStore::open(&StoreUrl::parse(url).unwrap(), options).unwrap()
}

struct IgnoreEvents;

impl EventHandler for IgnoreEvents {
    fn handle(&self, _: BackendEvent) {}
}

/// The driver itself; its events are ignored.
pub(crate) async fn driver(url: &str) -> Arc<dyn Backend> {
    driver_within(url, seconds(10)).await
}

/// The same, with this request time-out.
pub(crate) async fn driver_within(url: &str, request_timeout: Duration) -> Arc<dyn Backend> {
    let events: Arc<dyn EventHandler> = Arc::new(IgnoreEvents);
    let sink = EventSink::new(Arc::downgrade(&events));
    let context = Context::new(ClientId::random().unwrap(), sink, Arc::new(SystemClock))
        .with_request_timeout(request_timeout);
    let store = store(url, Options::default());
    store.connect(context).await.unwrap()
}

/// The builder of a client of this address.
pub(crate) fn builder(url: &str) -> ClientBuilder {
    Client::builder(store(url, Options::default()))
}

/// A client of this address whose locks have this TTL.
pub(crate) async fn client(url: &str, ttl: Duration) -> Client {
    let deadline = Instant::now() + WAIT_LIMIT;
    loop {
        match builder(url).ttl(ttl).connect().await {
            Ok(client) => return client,
            // On a stalled machine, the servers may need a moment before they answer.
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

/// Acquires a lock that must be free.
pub(crate) async fn acquire_free(client: &Client, lock: &str) -> Guard {
    match client.lock(lock).unwrap().try_acquire().await.unwrap() {
        Acquisition::Acquired(guard) => guard,
        busy => panic!("{lock} is not free: {busy:?}"),
    }
}

/// Acquires a lock in a task.
pub(crate) fn spawn_acquire(client: &Client, lock: &str) -> JoinHandle<Guard> {
    let lock = client.lock(lock).unwrap();
    tokio::spawn(async move { lock.acquire().await.unwrap() })
}

/// The guard of a waiter that must be granted within this time.
pub(crate) async fn expect_granted(
    what: &str,
    within: Duration,
    waiter: JoinHandle<Guard>,
) -> Guard {
    match timeout(within, waiter).await {
        Ok(guard) => guard.unwrap(),
        Err(_) => panic!("not within {within:?}: {what}"),
    }
}

/// Polls until the condition holds.
pub(crate) async fn wait_until(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        sleep(millis(5)).await;
    }
}

/// Polls until this number of attempts wait for a lock.
pub(crate) async fn wait_for_waiters(client: &Client, lock: &str, count: usize) {
    let deadline = Instant::now() + WAIT_LIMIT;
    loop {
        let state = client.inspect(&name(lock)).await;
        if state.is_ok_and(|state| state.queue.len() == count) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not {count} attempts wait for {lock}"
        );
        sleep(millis(10)).await;
    }
}

/// Polls until a lock has neither a holder nor a queue.
pub(crate) async fn wait_until_free(client: &Client, lock: &str, within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        let state = client.inspect(&name(lock)).await;
        match &state {
            Ok(state) if state.holder.is_none() && state.queue.is_empty() => return,
            _ => {}
        }
        assert!(Instant::now() < deadline, "{lock} is not free: {state:?}");
        sleep(millis(20)).await;
    }
}

/// The output of `etcdctl`, which must succeed.
pub(crate) fn etcdctl(endpoint: &str, arguments: &[&str]) -> String {
    let output = etcdctl_command(endpoint).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "etcdctl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn etcdctl_command(endpoint: &str) -> Command {
    let mut command = Command::new("etcdctl");
    command
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={endpoint}"));
    command
}

/// Compacts all history up to now, so that no watch can start before that.
pub(crate) fn compact(endpoint: &str) {
    let status = etcdctl(endpoint, &["put", "x", "y", "-w", "json"]);
    let at = status.find("\"revision\":").unwrap() + "\"revision\":".len();
    let digits = status[at..].chars().take_while(char::is_ascii_digit);
    etcdctl(endpoint, &["compact", &digits.collect::<String>()]);
}

/// A proxy in front of each member, and the URL of all proxies.
pub(crate) fn proxies(cluster: &Cluster) -> (Vec<Proxy>, String) {
    let proxies: Vec<Proxy> = cluster
        .servers()
        .iter()
        .map(|server| Proxy::for_etcd(server.address()).unwrap())
        .collect();
    let addresses: Vec<String> = proxies.iter().map(Proxy::address).collect();
    let url = format!("etcd://{}", addresses.join(","));
    (proxies, url)
}

/// The index of the proxy that the client uses, from the transactions since the last reset. (A
/// watch may still be on its way to another server.)
pub(crate) fn proxy_in_use(proxies: &[Proxy]) -> usize {
    let used: Vec<_> = (0..proxies.len())
        .filter(|index| proxies[*index].count("Txn") > 0)
        .collect();
    assert_eq!(
        used.len(),
        1,
        "a client uses one server at a time: {used:?}"
    );
    used[0]
}
