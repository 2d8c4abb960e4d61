//! etcd: the baseline, and the lock service of the server through `etcd-client`.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, LockOptions, PutOptions, Txn, TxnOp};
use tenure_test_servers::{etcd::Server, wire::Proxy};

use crate::{
    implementation::{Failure, Implementation, Tenure, address},
    store::Store,
};

pub(crate) const LOCK_SERVICE: &str = "etcd-client lock()";
/// The TTL of the leases in seconds. It is longer than a run, because only `tenure` renews its leases.
const LEASE_TTL: i64 = 3_600;

/// Starts one member that writes to the disk, and connects the implementations.
pub(crate) async fn start() -> Result<Store, Failure> {
    let disk = tempfile::tempdir()?;
    // By default the servers of the tests keep their files in memory.
    let directory = format!("--data-dir={}", disk.path().display());
    let server = Server::builder().flag(&directory).start()?;
    let endpoint = server.address();
    let implementations: Vec<Arc<dyn Implementation>> = vec![
        Arc::new(Baseline::connect(&endpoint).await?),
        Arc::new(Tenure::connect(&server.url()).await?),
        Arc::new(LockService::connect(&endpoint, 64).await?),
    ];
    let what = format!("etcd {}, one member, on disk", server.version()?);
    let (url, kept) = (server.url(), (server, disk));
    let store = Store::counting(what, url, implementations, kept, |(server, _)| {
        server.metric("etcd_debugging_lease_renewed_total").ok()?
    });
    Ok(store.with_proxy(|address| Proxy::for_etcd(address)))
}

/// A transaction that creates a key, and a deletion: the least that a lock on etcd costs.
struct Baseline {
    client: Client,
    lease: i64,
    next: AtomicU64,
}

impl Baseline {
    async fn connect(endpoint: &str) -> Result<Self, Failure> {
        let mut client = Client::connect([endpoint], None).await?;
        let lease = client.lease_grant(LEASE_TTL, None).await?.id();
        let next = AtomicU64::new(0);
        Ok(Self {
            client,
            lease,
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
        let mut client = self.client.kv_client();
        let key = format!("baseline/{lock}");
        let value = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let options = PutOptions::new().with_lease(self.lease);
        let put = Txn::new()
            .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.clone(), value, Some(options))]);
        if !client.txn(put).await?.succeeded() {
            return Err("the lock is taken".into());
        }
        held();
        if client.delete(key, None).await?.deleted() == 1 {
            Ok(())
        } else {
            Err("the lock was lost".into())
        }
    }

    async fn connect(&self, url: &str) -> Result<Option<Arc<dyn Implementation>>, Failure> {
        Ok(Some(Arc::new(Self::connect(address(url)).await?)))
    }
}

/// `Client::lock()` with leases that were granted before. Two calls with the same lease do not exclude
/// each other, so each call takes a separate lease from the list.
struct LockService {
    client: Client,
    leases: Mutex<Vec<i64>>,
}

impl LockService {
    async fn connect(endpoint: &str, count: usize) -> Result<Self, Failure> {
        let mut client = Client::connect([endpoint], None).await?;
        let mut leases = Vec::new();
        for _ in 0..count {
            leases.push(client.lease_grant(LEASE_TTL, None).await?.id());
        }
        let leases = Mutex::new(leases);
        Ok(Self { client, leases })
    }

    fn leases(&self) -> std::sync::MutexGuard<'_, Vec<i64>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Implementation for LockService {
    fn name(&self) -> &'static str {
        LOCK_SERVICE
    }

    fn waits(&self) -> bool {
        true
    }

    async fn acquire_and_release(
        &self,
        lock: &str,
        held: &(dyn Fn() + Sync),
    ) -> Result<(), Failure> {
        let unused = self.leases().pop();
        let lease = match unused {
            Some(lease) => lease,
            None => self
                .client
                .lease_client()
                .grant(LEASE_TTL, None)
                .await?
                .id(),
        };
        let mut client = self.client.lock_client();
        let options = LockOptions::new().with_lease(lease);
        let locked = client
            .lock(format!("service/{lock}"), Some(options))
            .await?;
        held();
        client.unlock(locked.key()).await?;
        self.leases().push(lease);
        Ok(())
    }

    async fn connect(&self, url: &str) -> Result<Option<Arc<dyn Implementation>>, Failure> {
        // This client has one waiter, so it needs one lease.
        Ok(Some(Arc::new(Self::connect(address(url), 1).await?)))
    }
}
