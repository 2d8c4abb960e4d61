//! The long run, `make soak`: on every backend, workers compete for locks during connection faults, and
//! members of clusters are killed and stopped. The whole history is checked, and nothing may grow: memory,
//! descriptors, tasks, the store. `SOAK_SECONDS` sets the duration (600), `SOAK_STORE` selects one store;
//! without it, the stores run side by side, each in a process of its own, whose resources are measured.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

#[path = "connection_faults.rs"]
mod connection_faults;
#[expect(dead_code, reason = "the short runs use the rest")]
mod faulted_run;
mod growth;
mod member_faults;
mod store_size;
mod verdict;

use std::{
    env,
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use connection_faults::{Durations, FULL_LENGTH, Soak};
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
const FAULT_PERIOD: Duration = Duration::from_secs(45);
const CLIENTS: usize = 6;
const STORES: [&str; 5] = ["memory", "file", "redis", "etcd", "zookeeper"];

fn main() -> ExitCode {
    let Ok(store) = env::var("SOAK_STORE") else {
        return side_by_side();
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        match store.as_str() {
            "memory" => memory().await,
            "file" => file().await,
            "redis" => redis().await,
            "etcd" => etcd().await,
            "zookeeper" => zookeeper().await,
            _ => panic!("SOAK_STORE={store} is none of {STORES:?}"),
        }
    });
    ExitCode::SUCCESS
}

/// Runs this program once for each store.
fn side_by_side() -> ExitCode {
    let program = env::current_exe().unwrap();
    let runs = STORES.map(|store| {
        let mut run = Command::new(&program);
        (store, run.env("SOAK_STORE", store).spawn().unwrap())
    });
    let passed = runs.map(|(store, mut run)| {
        let passed = run.wait().unwrap().success();
        println!("{store}: {}", if passed { "ok" } else { "FAILED" });
        passed
    });
    if passed.contains(&false) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn soak(what: &'static str) -> Soak {
    let seconds = env::var("SOAK_SECONDS");
    let whole = seconds.map_or(FULL_LENGTH, |text| {
        Duration::from_secs(text.parse().expect("SOAK_SECONDS is no number"))
    });
    let durations = Durations {
        whole,
        faults: FAULT_PERIOD.min(whole),
        calm: Duration::from_secs(5),
    };
    Soak::new(what, TTL, durations)
}

fn open(factory: &dyn Factory, url: &str, options: RawOptions) -> Result<Arc<dyn Connect>, Error> {
    let settings = Settings::new(StoreUrl::parse(url)?).with_options(options);
    factory.open(&settings)
}

async fn memory() {
    let store = MemoryStore::new();
    let way = || Faulty::above(Arc::new(store.clone()));
    let ways = (0..CLIENTS).map(|_| way()).collect();
    // The store is a part of the process's memory.
    soak("memory").run(ways, || {}, Vec::new).await;
}

async fn file() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("locks");
    let way = || Faulty::above(Arc::new(FileStore::new(&root)));
    let ways = (0..CLIENTS).map(|_| way()).collect();
    let measured = root.clone();
    let measure = move || store_size::of_directory(&measured);
    soak("file").run(ways, || {}, measure).await;
}

async fn redis() {
    let server = redis::Server::builder().start().unwrap();
    let mut ways = Vec::new();
    for _ in 0..CLIENTS {
        let connect = |url: String| open(&RedisFactory::new(), &url, RawOptions::new());
        ways.push(Faulty::to(&server.url(), connect).await.unwrap());
    }
    let measure = move || store_size::of_redis(&server);
    soak("redis").run(ways, || {}, measure).await;
}

async fn etcd() {
    let cluster = Arc::new(etcd::Cluster::builder().links().start().unwrap());
    let mut ways = Vec::new();
    for _ in 0..CLIENTS {
        let connect = |url: String| open(&EtcdFactory::new(), &url, RawOptions::new());
        ways.push(Faulty::to(&cluster.url(), connect).await.unwrap());
    }
    let soak = soak("etcd");
    let recorder = soak.recorder.clone();
    let measured = Arc::clone(&cluster);
    let measure = move || store_size::of_etcd(measured.servers());
    let inject = move || member_faults::inject(&*cluster, &recorder, TTL, 1);
    soak.run(ways, inject, measure).await;
}

async fn zookeeper() {
    // A killed server leaves its acknowledged writes to the system; without syncs, a busy disk does not slow
    // the run.
    let members = zookeeper::Server::builder().force_sync(false);
    let cluster = zookeeper::Cluster::builder()
        .members(members)
        .links()
        .start();
    let cluster = Arc::new(cluster.unwrap());
    let mut ways = Vec::new();
    for _ in 0..CLIENTS {
        let connect = |url: String| {
            let tick = RawOptions::new().with("tick", Value::from("100ms"), "the test");
            open(&ZooKeeperFactory::new(), &url, tick)
        };
        ways.push(Faulty::to(&cluster.url(), connect).await.unwrap());
    }
    let soak = soak("zookeeper");
    let recorder = soak.recorder.clone();
    let measured = Arc::clone(&cluster);
    let measure = move || store_size::of_zookeeper(measured.servers());
    let inject = move || member_faults::inject(&*cluster, &recorder, TTL, 1);
    soak.run(ways, inject, measure).await;
}
