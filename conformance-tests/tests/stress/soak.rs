//! The long run, `make soak`: on every backend, workers compete for locks during connection faults, and
//! members of clusters are killed and stopped. The whole history is checked. `SOAK_SECONDS` sets the duration
//! (600), `SOAK_STORE` selects one store.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "connection_faults.rs"]
mod connection_faults;
#[expect(dead_code, reason = "the short runs use the rest")]
mod faulted_run;
mod member_faults;
mod verdict;

use std::{future::Future, sync::Arc, time::Duration};

use connection_faults::Soak;
use tenure_conformance::fault::Faulty;
use tenure_core::{
    backend::Connect,
    error::Error,
    memory::MemoryStore,
    registry::Factory,
    settings::{RawOptions, Settings, StoreUrl, Value},
};
use tenure_etcd::EtcdFactory;
use tenure_file::FileStore;
use tenure_redis::RedisFactory;
use tenure_test_servers::{etcd, redis, zookeeper};
use tenure_zookeeper::ZooKeeperFactory;

const TTL: Duration = Duration::from_secs(2);

fn open(factory: &dyn Factory, url: &str, options: RawOptions) -> Result<Arc<dyn Connect>, Error> {
    let settings = Settings::new(StoreUrl::parse(url)?).with_options(options);
    factory.open(&settings)
}

fn wanted(store: &str) -> bool {
    std::env::var("SOAK_STORE").is_ok_and(|only| only == store)
        || std::env::var_os("SOAK_STORE").is_none()
}

async fn soak<F, Fut>(store: &'static str, soak: F)
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = ()>,
{
    if wanted(store) {
        soak().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    soak("memory", || async {
        let store = MemoryStore::new();
        let way = || Faulty::above(Arc::new(store.clone()));
        Soak::new("memory", TTL)
            .run((0..6).map(|_| way()).collect(), || {})
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file() {
    soak("file", || async {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("locks");
        let way = || Faulty::above(Arc::new(FileStore::new(&root)));
        Soak::new("file", TTL)
            .run((0..6).map(|_| way()).collect(), || {})
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis() {
    soak("redis", || async {
        let server = redis::Server::builder().start().unwrap();
        let mut ways = Vec::new();
        for _ in 0..6 {
            let connect = |url: String| open(&RedisFactory::new(), &url, RawOptions::new());
            ways.push(Faulty::to(&server.url(), connect).await.unwrap());
        }
        Soak::new("redis", TTL).run(ways, || {}).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd() {
    soak("etcd", || async {
        let cluster = Arc::new(etcd::Cluster::builder().links().start().unwrap());
        let mut ways = Vec::new();
        for _ in 0..6 {
            let connect = |url: String| open(&EtcdFactory::new(), &url, RawOptions::new());
            ways.push(Faulty::to(&cluster.url(), connect).await.unwrap());
        }
        let soak = Soak::new("etcd", TTL);
        let recorder = soak.recorder();
        let inject = move || member_faults::inject(&*cluster, &recorder, TTL, 1);
        soak.run(ways, inject).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zookeeper() {
    soak("zookeeper", || async {
        let cluster = Arc::new(zookeeper::Cluster::builder().links().start().unwrap());
        let mut ways = Vec::new();
        for _ in 0..6 {
            let connect = |url: String| {
                let tick = RawOptions::new().with("tick", Value::from("100ms"), "the test");
                open(&ZooKeeperFactory::new(), &url, tick)
            };
            ways.push(Faulty::to(&cluster.url(), connect).await.unwrap());
        }
        let soak = Soak::new("zookeeper", TTL);
        let recorder = soak.recorder();
        let inject = move || member_faults::inject(&*cluster, &recorder, TTL, 1);
        soak.run(ways, inject).await;
    })
    .await;
}
