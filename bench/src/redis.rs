//! Redis: the baseline, rslock, python-redis-lock and redlock.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, aio::MultiplexedConnection,
    io::tcp::TcpSettings,
};
use tenure_test_servers::{redis::Server, wire::Proxy};

use crate::{
    implementation::{Failure, Implementation, TTL, Tenure},
    limits::RSLOCK,
    peer::Peer,
    store::Store,
};

/// Starts a server without persistence, and connects the implementations.
pub(crate) async fn start() -> Result<Store, Failure> {
    let server = Server::builder().start()?;
    let version = server.info("redis_version")?.unwrap_or_default();
    let implementations: Vec<Arc<dyn Implementation>> = vec![
        Arc::new(Baseline::connect(&server.url()).await?),
        Arc::new(Tenure::connect(&server.url()).await?),
        Arc::new(Rslock::connect(&server.url())?),
    ];
    let address = server.address();
    let peers = [
        Peer::python_redis_lock(&address).await,
        Peer::redlock(&address).await,
    ];
    let (what, url) = (format!("redis {version} without persistence"), server.url());
    let store = Store::counting(what, url, implementations, server, |server| {
        // One read is one pipelined request, with any number of scripts.
        server.info("total_reads_processed").ok()??.parse().ok()
    });
    Ok(store
        .with_proxy(|address| Proxy::start(address))
        .with_peers(peers))
}

/// `SET NX PX`, and a script that compares and deletes: the least that a lock on Redis costs.
pub(crate) struct Baseline {
    connection: MultiplexedConnection,
    script: redis::Script,
    next: AtomicU64,
}

impl Baseline {
    pub(crate) async fn connect(url: &str) -> Result<Self, Failure> {
        let settings = TcpSettings::default().set_nodelay(true);
        let info = url.into_connection_info()?.set_tcp_settings(settings);
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(TTL));
        let client = Client::open(info)?;
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let script = redis::Script::new(
            "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end \
             return 0",
        );
        let next = AtomicU64::new(0);
        Ok(Self {
            connection,
            script,
            next,
        })
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
        let mut connection = self.connection.clone();
        let id = format!("{:032x}", self.next.fetch_add(1, Ordering::Relaxed));
        let mut set = redis::cmd("SET");
        set.arg(lock).arg(&id).arg("NX").arg("PX").arg(30_000);
        let answer: Option<String> = set.query_async(&mut connection).await?;
        if answer.is_none() {
            return Err("the lock is taken".into());
        }
        held();
        let deleted: i64 = self
            .script
            .key(lock)
            .arg(&id)
            .invoke_async(&mut connection)
            .await?;
        if deleted == 1 {
            Ok(())
        } else {
            Err("the lock was lost".into())
        }
    }

    async fn connect(&self, url: &str) -> Result<Option<Arc<dyn Implementation>>, Failure> {
        Ok(Some(Arc::new(Self::connect(url).await?)))
    }
}

/// rslock 0.10 with its default settings: a waiter retries every 0 to 200 ms.
pub(crate) struct Rslock(rslock::LockManager);

impl Rslock {
    pub(crate) fn connect(url: &str) -> Result<Self, Failure> {
        let settings = TcpSettings::default().set_nodelay(true);
        let info = url.into_connection_info()?.set_tcp_settings(settings);
        let clients = vec![Client::open(info)?];
        Ok(Self(rslock::LockManager::from_clients(clients)))
    }
}

#[async_trait]
impl Implementation for Rslock {
    fn name(&self) -> &'static str {
        RSLOCK
    }

    fn waits(&self) -> bool {
        true
    }

    async fn acquire_and_release(
        &self,
        lock: &str,
        held: &(dyn Fn() + Sync),
    ) -> Result<(), Failure> {
        let guard = self.0.acquire(lock, TTL).await?;
        held();
        guard.release().await;
        Ok(())
    }

    async fn connect(&self, url: &str) -> Result<Option<Arc<dyn Implementation>>, Failure> {
        Ok(Some(Arc::new(Self::connect(url)?)))
    }
}
