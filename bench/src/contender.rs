//! Who is measured: each takes and gives back a lock in its own way, with one client for all tasks.

use std::{
    error::Error,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, aio::MultiplexedConnection,
    io::tcp::TcpSettings,
};
use tenure_core::settings::StoreUrl;
use tenure_redis::{Options, RedisStore};

/// Whatever a contender fails with.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The time to live of every lock here.
const TTL: Duration = Duration::from_secs(30);

/// One way to lock.
#[async_trait]
pub(crate) trait Contender: Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether it can wait for a lock that is taken.
    fn waits(&self) -> bool;

    /// Takes the lock, does nothing under it, and gives it back.
    async fn turn(&self, lock: &str) -> Result<(), Failure>;
}

/// `SET NX PX`, and a script that compares and deletes: what any lock on Redis costs at the least.
pub(crate) struct Floor {
    connection: MultiplexedConnection,
    script: redis::Script,
    next: AtomicU64,
}

impl Floor {
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
impl Contender for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn waits(&self) -> bool {
        false
    }

    async fn turn(&self, lock: &str) -> Result<(), Failure> {
        let mut connection = self.connection.clone();
        let id = format!("{:032x}", self.next.fetch_add(1, Ordering::Relaxed));
        let mut set = redis::cmd("SET");
        set.arg(lock).arg(&id).arg("NX").arg("PX").arg(30_000);
        let answer: Option<String> = set.query_async(&mut connection).await?;
        if answer.is_none() {
            return Err("the lock is taken".into());
        }
        let gone: i64 = self
            .script
            .key(lock)
            .arg(&id)
            .invoke_async(&mut connection)
            .await?;
        if gone == 1 {
            Ok(())
        } else {
            Err("the lock was lost".into())
        }
    }
}

/// Ours, by the public way: queue, token, deadline, renewal and notice of loss included.
pub(crate) struct Tenure(tenure_core::Client);

impl Tenure {
    pub(crate) async fn connect(url: &str) -> Result<Self, Failure> {
        let store = RedisStore::open(&StoreUrl::parse(url)?, Options::default())?;
        let client = tenure_core::Client::builder(store)
            .ttl(TTL)
            .connect()
            .await?;
        Ok(Self(client))
    }
}

#[async_trait]
impl Contender for Tenure {
    fn name(&self) -> &'static str {
        "tenure"
    }

    fn waits(&self) -> bool {
        true
    }

    async fn turn(&self, lock: &str) -> Result<(), Failure> {
        let guard = self.0.lock(lock)?.acquire().await?;
        match guard.release().await {
            tenure_core::Release::Released => Ok(()),
            other => Err(format!("the release gave {other:?}").into()),
        }
    }
}

/// The same client without a server: what the way through the core costs by itself.
pub(crate) struct Memory(tenure_core::Client);

impl Memory {
    pub(crate) async fn connect() -> Result<Self, Failure> {
        let store = tenure_core::memory::MemoryStore::new();
        let client = tenure_core::Client::builder(store)
            .ttl(TTL)
            .connect()
            .await?;
        Ok(Self(client))
    }
}

#[async_trait]
impl Contender for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn waits(&self) -> bool {
        false
    }

    async fn turn(&self, lock: &str) -> Result<(), Failure> {
        let guard = self.0.lock(lock)?.acquire().await?;
        match guard.release().await {
            tenure_core::Release::Released => Ok(()),
            other => Err(format!("the release gave {other:?}").into()),
        }
    }
}

/// rslock 0.10 with its own settings for waiting: a try every 0 to 200 ms.
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
impl Contender for Rslock {
    fn name(&self) -> &'static str {
        "rslock"
    }

    fn waits(&self) -> bool {
        true
    }

    async fn turn(&self, lock: &str) -> Result<(), Failure> {
        let guard = self.0.acquire(lock, TTL).await?;
        guard.release().await;
        Ok(())
    }
}
