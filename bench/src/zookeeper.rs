//! ZooKeeper: the baseline, the lock of `zookeeper-client`, Curator and kazoo.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tenure_test_servers::{wire::Proxy, zookeeper::Server};
use zookeeper_client::{Acls, Client, CreateMode, Error, LockOptions, LockPrefix};

use crate::{
    implementation::{Failure, Implementation, TTL, Tenure, address},
    peer::Peer,
    store::Store,
};

/// The parent of the baseline's nodes.
const ROOT: &str = "/baseline";
pub(crate) const RECIPE: &str = "zookeeper-client lock()";
const ANCESTORS: CreateMode = CreateMode::Container;

/// Starts one server that writes to the disk, and connects the implementations.
pub(crate) async fn start() -> Result<Store, Failure> {
    let disk = tempfile::tempdir()?;
    // By default the servers of the tests keep their files in memory and have a shorter tick. With this
    // tick, session time-outs may be from 4 to 40 seconds.
    let server = Server::builder()
        .tick(Duration::from_secs(2))
        .force_sync(true)
        .config("dataDir", &disk.path().display().to_string())
        // The default of 60 connections of one host is too low for 64 waiters with a client each.
        .config("maxClientCnxns", "500")
        .start()?;
    let endpoint = server.address();
    let implementations: Vec<Arc<dyn Implementation>> = vec![
        Arc::new(Baseline::connect(&endpoint).await?),
        Arc::new(Tenure::connect(&server.url()).await?),
        Arc::new(Recipe(connect(&endpoint).await?)),
    ];
    let peers = [Peer::curator(&endpoint).await, Peer::kazoo(&endpoint).await];
    let what = format!("ZooKeeper {}, one server, on disk", server.version()?);
    let (url, kept) = (server.url(), (server, disk));
    let store = Store::counting(what, url, implementations, kept, |(server, _)| {
        server.metric("zk_packets_received").ok()??.parse().ok()
    });
    Ok(store
        .with_proxy(|address| Proxy::for_zookeeper(address))
        .with_peers(peers))
}

async fn connect(endpoint: &str) -> Result<Client, Failure> {
    let connector = Client::connector().with_session_timeout(TTL);
    Ok(connector.connect(endpoint).await?)
}

/// An ephemeral node and its deletion: the least that a lock on ZooKeeper costs.
struct Baseline(Client);

impl Baseline {
    async fn connect(endpoint: &str) -> Result<Self, Failure> {
        let client = connect(endpoint).await?;
        // The server would delete an empty container node during other measurements.
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        match client.create(ROOT, b"", &options).await {
            Ok(_) | Err(Error::NodeExists) => Ok(Self(client)),
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait]
impl Implementation for Baseline {
    fn name(&self) -> &'static str {
        "baseline"
    }

    fn waits(&self) -> bool {
        false
    }

    async fn acquire_and_release(
        &self,
        lock: &str,
        held: &(dyn Fn() + Sync),
    ) -> Result<(), Failure> {
        let path = format!("{ROOT}/{lock}");
        let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
        self.0.create(&path, b"", &options).await?;
        held();
        self.0.delete(&path, None).await?;
        Ok(())
    }

    async fn connect(&self, url: &str) -> Result<Option<Arc<dyn Implementation>>, Failure> {
        Ok(Some(Arc::new(Self::connect(address(url)).await?)))
    }
}

/// `Client::lock()` with Curator's names. It deletes its node in the background; the next request waits
/// for the deletion, so the deletion counts.
struct Recipe(Client);

#[async_trait]
impl Implementation for Recipe {
    fn name(&self) -> &'static str {
        RECIPE
    }

    fn waits(&self) -> bool {
        true
    }

    async fn acquire_and_release(
        &self,
        lock: &str,
        held: &(dyn Fn() + Sync),
    ) -> Result<(), Failure> {
        let directory = format!("/recipe/{lock}");
        let prefix = LockPrefix::new_curator(&directory, "lock-")?;
        let options = LockOptions::new(Acls::anyone_all())
            .with_ancestor_options(ANCESTORS.with_acls(Acls::anyone_all()))?;
        let locked = self.0.lock(prefix, b"", options).await?;
        held();
        drop(locked);
        Ok(())
    }

    async fn connect(&self, url: &str) -> Result<Option<Arc<dyn Implementation>>, Failure> {
        Ok(Some(Arc::new(Self(connect(address(url)).await?))))
    }
}
