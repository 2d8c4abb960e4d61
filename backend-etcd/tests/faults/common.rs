//! What the tests share: clients of real servers, holders and waiters, and looking until something is
//! so.

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

/// For what takes moments, on a busy machine.
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

/// The driver itself, whose events nobody hears.
pub(crate) async fn driver(url: &str) -> Arc<dyn Backend> {
    let events: Arc<dyn EventHandler> = Arc::new(IgnoreEvents);
    let sink = EventSink::new(Arc::downgrade(&events));
    let context = Context::new(ClientId::random().unwrap(), sink, Arc::new(SystemClock))
        .with_request_timeout(seconds(10));
    let store = store(url, Options::default());
    store.connect(context).await.unwrap()
}

/// A client of that address, not yet connected.
pub(crate) fn builder(url: &str) -> ClientBuilder {
    Client::builder(store(url, Options::default()))
}

/// A client of that address whose locks have that TTL.
pub(crate) async fn client(url: &str, ttl: Duration) -> Client {
    let deadline = Instant::now() + WAIT_LIMIT;
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

/// Takes a lock that is free.
pub(crate) async fn acquire_free(client: &Client, lock: &str) -> Guard {
    match client.lock(lock).unwrap().try_acquire().await.unwrap() {
        Acquisition::Acquired(guard) => guard,
        busy => panic!("{lock} is not free: {busy:?}"),
    }
}

/// Waits for a lock in the background.
pub(crate) fn spawn_acquire(client: &Client, lock: &str) -> JoinHandle<Guard> {
    let lock = client.lock(lock).unwrap();
    tokio::spawn(async move { lock.acquire().await.unwrap() })
}

/// The guard of a waiter that must come to its turn in that time.
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

/// Looks until it is so.
pub(crate) async fn wait_until(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        sleep(millis(5)).await;
    }
}

/// Looks until so many wait for a lock.
pub(crate) async fn wait_for_waiters(client: &Client, lock: &str, count: usize) {
    let deadline = Instant::now() + WAIT_LIMIT;
    loop {
        let state = client.inspect(&name(lock)).await;
        if state.is_ok_and(|state| state.queue.len() == count) {
            return;
        }
        assert!(Instant::now() < deadline, "{count} should wait for {lock}");
        sleep(millis(10)).await;
    }
}

/// Looks until a lock has neither holder nor queue.
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

/// What `etcdctl` says; it must succeed.
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

/// Drops all history up to now: no watch can be begun before that.
pub(crate) fn compact(endpoint: &str) {
    let status = etcdctl(endpoint, &["put", "x", "y", "-w", "json"]);
    let at = status.find("\"revision\":").unwrap() + "\"revision\":".len();
    let digits = status[at..].chars().take_while(char::is_ascii_digit);
    etcdctl(endpoint, &["compact", &digits.collect::<String>()]);
}

/// A proxy in front of each member, and the address of all of them.
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

/// Which of the proxies a client uses that has done something since the last reset.
pub(crate) fn proxy_in_use(proxies: &[Proxy]) -> usize {
    let used: Vec<_> = (0..proxies.len())
        .filter(|index| proxies[*index].requests() > 0)
        .collect();
    assert_eq!(used.len(), 1, "one server is asked at a time: {used:?}");
    used[0]
}
