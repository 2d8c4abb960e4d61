//! One client of each store holds ten thousand locks, all in one process, while its connections are cut. No
//! lock may be lost, nothing may grow from cut to cut, and in the end all locks are released.
#![expect(clippy::unwrap_used, reason = "a test")]

mod growth;
mod store_size;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use growth::{Figure, Samples};
use tenure_conformance::fault::{Fault, Faulty};
use tenure_core::{
    Client, Guard, Release,
    backend::Connect,
    error::Error,
    memory::MemoryStore,
    registry::Factory,
    request::List,
    settings::{Settings, StoreUrl},
};
use tenure_etcd::EtcdFactory;
use tenure_file::FileStore;
use tenure_redis::RedisFactory;
use tenure_test_servers::{etcd, redis, zookeeper};
use tenure_zookeeper::ZooKeeperFactory;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

const COUNT: usize = 10_000;
/// A client of the file store writes a file for each renewal.
const TTL: Duration = Duration::from_secs(60);
const CUTS: u32 = 6;
const CUT: Duration = Duration::from_secs(1);
const MAX_CONCURRENT_REQUESTS: usize = 100;
/// The time limit of each step on a busy machine.
const STEP_TIMEOUT: Duration = Duration::from_secs(300);

/// A client of a store, and its locks.
struct Held {
    store: &'static str,
    way: Faulty,
    client: Client,
    guards: Vec<Guard>,
    size: Box<dyn Fn() -> Vec<Figure>>,
    samples: Samples,
}

impl Held {
    async fn acquire(
        store: &'static str,
        way: Faulty,
        size: impl Fn() -> Vec<Figure> + 'static,
    ) -> Self {
        let client = Client::builder(way.connector()).ttl(TTL).connect().await;
        let client = client.unwrap();
        let begin = Instant::now();
        let guards = in_parallel((0..COUNT).map(|number| {
            let lock = client.lock(format!("lock-{number}")).unwrap();
            async move { lock.acquire().await.unwrap() }
        }));
        let guards = timeout(STEP_TIMEOUT, guards).await.unwrap();
        println!("{store}: {COUNT} locks after {:?}", begin.elapsed());
        let held = Self {
            store,
            way,
            client,
            guards,
            size: Box::new(size),
            samples: Samples::default(),
        };
        assert_eq!(held.listed().await, COUNT, "{store}");
        held
    }

    /// Returns how many locks the store lists.
    async fn listed(&self) -> usize {
        let mut names = BTreeSet::new();
        let mut cursor = None;
        loop {
            let page = self.client.list(List::new("", 1_000).at(cursor)).await;
            let page = page.unwrap();
            names.extend(page.locks.into_iter().map(|lock| lock.name));
            cursor = page.next;
            if cursor.is_none() {
                return names.len();
            }
        }
    }

    /// Waits until each lock is renewed by a request after this moment, which follows a cut.
    async fn until_renewed(&self, stalls: &Stalls) {
        let begin = Instant::now();
        let remaining = self.guards.iter().map(Guard::remaining).min();
        let last = self.guards.iter().map(Guard::valid_until).max();
        loop {
            for guard in &self.guards {
                let (lost, why) = (guard.check(), guard.last_renewal_error());
                let store = self.store;
                assert!(
                    lost.is_ok(),
                    "{store}: {lost:?}, {:?} after the cut, when {remaining:?} were left: {why:?}; the \
                     process had no processor for up to {:?}",
                    begin.elapsed(),
                    stalls.longest()
                );
            }
            if self
                .guards
                .iter()
                .all(|guard| Some(guard.valid_until()) > last)
            {
                println!("{}: all renewed after {:?}", self.store, begin.elapsed());
                return;
            }
            assert!(begin.elapsed() < STEP_TIMEOUT, "{}", self.store);
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn release(mut self) {
        let begin = Instant::now();
        let guards = std::mem::take(&mut self.guards).into_iter();
        let releases = in_parallel(guards.map(|guard| async move { guard.release().await }));
        for release in timeout(STEP_TIMEOUT, releases).await.unwrap() {
            assert!(
                matches!(release, Release::Released),
                "{}: {release:?}",
                self.store
            );
        }
        assert_eq!(self.listed().await, 0, "{}", self.store);
        println!("{}: all released after {:?}", self.store, begin.elapsed());
        self.client.shutdown(STEP_TIMEOUT).await;
    }
}

/// Runs these requests, some of them at a time.
async fn in_parallel<F>(requests: impl Iterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut outputs = Vec::new();
    for request in requests {
        if running.len() >= MAX_CONCURRENT_REQUESTS {
            outputs.push(running.join_next().await.unwrap().unwrap());
        }
        running.spawn(request);
    }
    outputs.extend(running.join_all().await);
    outputs
}

/// The longest time for which this process had no processor, on a busy machine.
struct Stalls(Arc<AtomicU64>);

impl Stalls {
    fn watch() -> Self {
        let longest = Arc::new(AtomicU64::new(0));
        let watched = Arc::clone(&longest);
        tokio::spawn(async move {
            loop {
                let begin = Instant::now();
                sleep(Duration::from_millis(10)).await;
                let took = u64::try_from(begin.elapsed().as_millis()).unwrap();
                watched.fetch_max(took, Ordering::Relaxed);
            }
        });
        Self(longest)
    }

    fn longest(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

fn open(factory: &dyn Factory, url: &str) -> Result<Arc<dyn Connect>, Error> {
    factory.open(&Settings::new(StoreUrl::parse(url)?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_cuts_cost_none_of_ten_thousand_locks_on_each_store() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("locks");
    let redis = redis::Server::builder().start().unwrap();
    let etcd = etcd::Server::builder().start().unwrap();
    let longest = TTL.as_millis().to_string();
    let zookeeper = zookeeper::Server::builder().config("maxSessionTimeout", &longest);
    let zookeeper = zookeeper.start().unwrap();

    let of_memory = Faulty::above(Arc::new(MemoryStore::new()));
    let of_file = Faulty::above(Arc::new(FileStore::new(&root)));
    let connect = |url: String| open(&RedisFactory::new(), &url);
    let of_redis = Faulty::to(&redis.url(), connect).await.unwrap();
    let connect = |url: String| open(&EtcdFactory::new(), &url);
    let of_etcd = Faulty::to(&etcd.url(), connect).await.unwrap();
    let connect = |url: String| open(&ZooKeeperFactory::new(), &url);
    let of_zookeeper = Faulty::to(&zookeeper.url(), connect).await.unwrap();

    let files = move || store_size::of_directory(&root);
    let keys = move || store_size::of_redis(&redis);
    let entries = move || store_size::of_etcd(std::slice::from_ref(&etcd));
    let nodes = move || store_size::of_zookeeper(std::slice::from_ref(&zookeeper));
    let mut all = [
        Held::acquire("memory", of_memory, Vec::new).await,
        Held::acquire("redis", of_redis, keys).await,
        Held::acquire("etcd", of_etcd, entries).await,
        Held::acquire("zookeeper", of_zookeeper, nodes).await,
        Held::acquire("file", of_file, files).await,
    ];

    let begin = Instant::now();
    let stalls = Stalls::watch();
    let mut samples = Samples::default();
    for _ in 0..CUTS {
        all.iter()
            .for_each(|held| held.way.line().set(Fault::Refuse));
        sleep(CUT).await;
        all.iter().for_each(|held| held.way.line().set(Fault::None));
        // All at the same time, so that each message says how long its store took.
        let [memory, redis, etcd, zookeeper, file] = &all;
        tokio::join!(
            memory.until_renewed(&stalls),
            redis.until_renewed(&stalls),
            etcd.until_renewed(&stalls),
            zookeeper.until_renewed(&stalls),
            file.until_renewed(&stalls),
        );
        for held in &mut all {
            let size = (held.size)();
            held.samples.add(held.store, begin.elapsed(), size);
        }
        samples.add("process", begin.elapsed(), growth::of_process(0));
        println!(
            "the process had no processor for up to {:?}",
            stalls.longest()
        );
    }
    samples.judge("process", Duration::ZERO);
    for held in &all {
        held.samples.judge(held.store, Duration::ZERO);
    }
    for held in all {
        held.release().await;
    }
}
