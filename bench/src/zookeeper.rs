//! ZooKeeper: its own requests, and the lock of `zookeeper-client`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tenure_test_servers::zookeeper::Server;
use zookeeper_client::{Acls, Client, CreateMode, LockOptions, LockPrefix};

use crate::contender::{Contender, Failure, Store, TTL, tenure};

const ROOTS: CreateMode = CreateMode::Container;

/// One server that writes to the disk, and those who lock on it.
pub(crate) async fn start() -> Result<Store, Failure> {
    let disk = tempfile::tempdir()?;
    // The servers of tests keep their files in memory, and have a shorter tick; with this one
    // sessions may last from 4 to 40 seconds.
    let server = Server::builder()
        .tick(Duration::from_secs(2))
        .force_sync(true)
        .config("dataDir", &disk.path().display().to_string())
        .start()?;
    let endpoint = server.address();
    let contenders: Vec<Arc<dyn Contender>> = vec![
        Arc::new(Floor(connect(&endpoint, "/floor").await?)),
        Arc::new(tenure(&server.url()).await?),
        Arc::new(Recipe(connect(&endpoint, "/recipe").await?)),
    ];
    let what = format!("ZooKeeper {}, one server, on disk", server.version()?);
    let (url, kept) = (server.url(), (server, disk));
    Ok(Store::metered(
        what,
        url,
        contenders,
        kept,
        |(server, _)| server.metric("zk_packets_received").ok()??.parse().ok(),
    ))
}

async fn connect(endpoint: &str, root: &str) -> Result<Client, Failure> {
    let connector = Client::connector().with_session_timeout(TTL);
    let client = connector.connect(endpoint).await?;
    let options = ROOTS.with_acls(Acls::anyone_all());
    client.create(root, b"", &options).await?;
    Ok(client)
}

/// An ephemeral node, and its deletion: what any lock costs at the least.
struct Floor(Client);

#[async_trait]
impl Contender for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn waits(&self) -> bool {
        false
    }

    async fn turn(&self, lock: &str, held: &(dyn Fn() + Sync)) -> Result<(), Failure> {
        let path = format!("/floor/{lock}");
        let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
        self.0.create(&path, b"", &options).await?;
        held();
        self.0.delete(&path, None).await?;
        Ok(())
    }
}

/// `Client::lock()` with Curator's names. It deletes its node in the background: what comes next
/// waits for that, so it is counted.
struct Recipe(Client);

#[async_trait]
impl Contender for Recipe {
    fn name(&self) -> &'static str {
        "zookeeper-client lock()"
    }

    fn waits(&self) -> bool {
        true
    }

    async fn turn(&self, lock: &str, held: &(dyn Fn() + Sync)) -> Result<(), Failure> {
        let directory = format!("/recipe/{lock}");
        let prefix = LockPrefix::new_curator(&directory, "lock-")?;
        let options = LockOptions::new(Acls::anyone_all())
            .with_ancestor_options(ROOTS.with_acls(Acls::anyone_all()))?;
        let locked = self.0.lock(prefix, b"", options).await?;
        held();
        drop(locked);
        Ok(())
    }
}
