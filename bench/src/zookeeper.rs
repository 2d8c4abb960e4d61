//! ZooKeeper: its own requests, the lock of `zookeeper-client`, Curator and kazoo.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tenure_test_servers::{wire::Proxy, zookeeper::Server};
use zookeeper_client::{Acls, Client, CreateMode, Error, LockOptions, LockPrefix};

use crate::{
    contender::{Contender, Failure, Store, TTL, Tenure, address},
    program::Launch,
};

/// What the baseline's nodes are below.
const ROOT: &str = "/baseline";
pub(crate) const RECIPE: &str = "zookeeper-client lock()";
const ANCESTORS: CreateMode = CreateMode::Container;

/// One server that writes to the disk, and those who lock on it.
pub(crate) async fn start() -> Result<Store, Failure> {
    let disk = tempfile::tempdir()?;
    // The servers of tests keep their files in memory, and have a shorter tick; with this one
    // sessions may last from 4 to 40 seconds.
    let server = Server::builder()
        .tick(Duration::from_secs(2))
        .force_sync(true)
        .config("dataDir", &disk.path().display().to_string())
        // By default 60 connections of one host: 64 waiters with a client each need more.
        .config("maxClientCnxns", "500")
        .start()?;
    let endpoint = server.address();
    let contenders: Vec<Arc<dyn Contender>> = vec![
        Arc::new(Baseline::connect(&endpoint).await?),
        Arc::new(Tenure::connect(&server.url()).await?),
        Arc::new(Recipe(connect(&endpoint).await?)),
    ];
    let others = [
        Launch::curator(&endpoint).await,
        Launch::kazoo(&endpoint).await,
    ];
    let what = format!("ZooKeeper {}, one server, on disk", server.version()?);
    let (url, kept) = (server.url(), (server, disk));
    let store = Store::metered(what, url, contenders, kept, |(server, _)| {
        server.metric("zk_packets_received").ok()??.parse().ok()
    });
    Ok(store
        .behind(|address| Proxy::for_zookeeper(address))
        .beside(others))
}

async fn connect(endpoint: &str) -> Result<Client, Failure> {
    let connector = Client::connector().with_session_timeout(TTL);
    Ok(connector.connect(endpoint).await?)
}

/// An ephemeral node, and its deletion: what any lock costs at the least.
struct Baseline(Client);

impl Baseline {
    async fn connect(endpoint: &str) -> Result<Self, Failure> {
        let client = connect(endpoint).await?;
        // Not a container: the server deletes one that is empty while others are measured.
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        match client.create(ROOT, b"", &options).await {
            Ok(_) | Err(Error::NodeExists) => Ok(Self(client)),
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait]
impl Contender for Baseline {
    fn name(&self) -> &'static str {
        "baseline"
    }

    fn waits(&self) -> bool {
        false
    }

    async fn turn(&self, lock: &str, held: &(dyn Fn() + Sync)) -> Result<(), Failure> {
        let path = format!("{ROOT}/{lock}");
        let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
        self.0.create(&path, b"", &options).await?;
        held();
        self.0.delete(&path, None).await?;
        Ok(())
    }

    async fn connect(&self, url: &str) -> Result<Option<Arc<dyn Contender>>, Failure> {
        Ok(Some(Arc::new(Self::connect(address(url)).await?)))
    }
}

/// `Client::lock()` with Curator's names. It deletes its node in the background: what comes next
/// waits for that, so it is counted.
struct Recipe(Client);

#[async_trait]
impl Contender for Recipe {
    fn name(&self) -> &'static str {
        RECIPE
    }

    fn waits(&self) -> bool {
        true
    }

    async fn turn(&self, lock: &str, held: &(dyn Fn() + Sync)) -> Result<(), Failure> {
        let directory = format!("/recipe/{lock}");
        let prefix = LockPrefix::new_curator(&directory, "lock-")?;
        let options = LockOptions::new(Acls::anyone_all())
            .with_ancestor_options(ANCESTORS.with_acls(Acls::anyone_all()))?;
        let locked = self.0.lock(prefix, b"", options).await?;
        held();
        drop(locked);
        Ok(())
    }

    async fn connect(&self, url: &str) -> Result<Option<Arc<dyn Contender>>, Failure> {
        Ok(Some(Arc::new(Self(connect(address(url)).await?))))
    }
}
