//! The compare-and-swap adapter with blobs that do not answer.
#![allow(
    clippy::panic,
    clippy::type_complexity,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tenure_core::{
    Client,
    backend::{Backend, BackendInfo, Connect, Context, RenewalAnswers},
    capability::{
        Capabilities, Durability, Evidence, LossEvidence, TakeoverBound, TtlRange, TtlScope,
        WaitMode,
    },
    cas::{BlobStore, Cas, Key, Names, Swap, Version, Versioned},
    error::Error,
    name::Namespace,
    request::Renewal,
};

#[derive(Debug, Clone, Default)]
struct Map {
    blobs: Arc<Mutex<HashMap<String, (u64, Vec<u8>)>>>,
    next: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
    /// Every request hangs for the locks whose names begin with this text.
    hanging: Arc<Mutex<Option<String>>>,
}

impl Map {
    async fn reach(&self, key: &Key) {
        let hanging = self.hanging.lock().unwrap().clone();
        if hanging.is_some_and(|prefix| key.name.as_str().starts_with(&prefix)) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Connect for Map {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("map", "map:")
    }
    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        Ok(Arc::new(Cas::new(self.clone(), context)?))
    }
}

#[async_trait]
impl BlobStore for Map {
    fn info(&self) -> BackendInfo {
        Connect::info(self)
    }
    async fn capabilities(&self) -> Result<Capabilities, Error> {
        Ok(Capabilities::new(
            Durability::Volatile,
            WaitMode::Poll {
                every: Duration::from_millis(50),
            },
            LossEvidence::new(Evidence::NextRenewal, Evidence::NextRenewal),
            TtlRange::new(
                Duration::from_millis(100),
                Duration::from_secs(3600),
                Duration::from_millis(1),
                TtlScope::Lock,
            ),
            TakeoverBound::new(100, 50, Duration::from_secs(1)),
        ))
    }
    async fn read(&self, key: &Key) -> Result<Option<Versioned>, Error> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.reach(key).await;
        let blobs = self.blobs.lock().unwrap();
        Ok(blobs.get(&key.path()).map(|(version, bytes)| {
            Versioned::new(Version::new(version.to_string()), bytes.clone())
        }))
    }
    async fn compare_and_swap(
        &self,
        key: &Key,
        expected: Option<&Version>,
        bytes: Vec<u8>,
    ) -> Result<Swap, Error> {
        self.reach(key).await;
        let mut blobs = self.blobs.lock().unwrap();
        let present = blobs
            .get(&key.path())
            .map(|(version, _)| version.to_string());
        if present.as_deref() != expected.map(Version::as_str) {
            return Ok(Swap::Conflict);
        }
        let version = self.next.fetch_add(1, Ordering::SeqCst);
        blobs.insert(key.path(), (version, bytes));
        Ok(Swap::Swapped(Version::new(version.to_string())))
    }
    async fn list(
        &self,
        _: &Namespace,
        _: &str,
        _: Option<&str>,
        _: usize,
    ) -> Result<Names, Error> {
        Ok(Names::default())
    }
}

/// ADR 0001: "a driver that splits a batch sends each part's proofs as events at once: one dead
/// node must not hold up the others' proofs until the time limit" (file, Kubernetes: this adapter).
/// K1, L5: a lock whose blob does not answer must not delay the renewals of the other locks.
#[tokio::test]
async fn l5_hanging_blob_loses_no_other_lock() {
    let map = Map::default();
    let client = Client::builder(map.clone())
        .ttl(Duration::from_secs(1))
        .connect()
        .await
        .unwrap();
    let good = client.lock("good").unwrap().acquire().await.unwrap();
    let bad = client.lock("bad").unwrap().acquire().await.unwrap();
    *map.hanging.lock().unwrap() = Some("bad".to_owned());
    tokio::select! {
        why = good.lost() => panic!("`good` is lost: {why}; its blob answers at once"),
        () = tokio::time::sleep(Duration::from_secs(4)) => {}
    }
    assert!(bad.check().is_err());
}

/// K3: the renewal of a lock may wait for a place while the lock is released.
#[tokio::test]
async fn k3_renewal_of_a_released_lock_sends_nothing() {
    let map = Map::default();
    let client = Client::builder(map.clone()).connect().await.unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    let entry = Renewal::new(
        guard.name().clone(),
        guard.attempt(),
        guard.ttl(),
        Some(guard.token()),
    );
    for wanted in [true, false] {
        let before = map.reads.load(Ordering::SeqCst) + map.next.load(Ordering::SeqCst);
        let answers = RenewalAnswers::new(|_, _| {}).wanted_while(move |_| wanted);
        client.backend().renew(vec![entry.clone()], answers).await;
        let sent = map.reads.load(Ordering::SeqCst) + map.next.load(Ordering::SeqCst) - before;
        assert_eq!(sent > 0, wanted, "{sent} requests");
    }
}

/// K1, L5: the renewals of a batch share a limited number of places. Blobs that do not answer must
/// not keep all of them.
#[tokio::test]
async fn l5_many_hanging_blobs_lose_no_other_lock() {
    let map = Map::default();
    let client = Client::builder(map.clone())
        .ttl(Duration::from_secs(3))
        .connect()
        .await
        .unwrap();
    let hold = async |name: String| client.lock(name).unwrap().acquire().await.unwrap();
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for n in 0..10 {
        good.push(hold(format!("good {n}")).await);
    }
    for n in 0..300 {
        bad.push(hold(format!("bad {n}")).await);
    }
    *map.hanging.lock().unwrap() = Some("bad".to_owned());
    tokio::time::sleep(Duration::from_secs(4)).await;
    let lost = good.iter().filter(|guard| guard.check().is_err()).count();
    assert_eq!(lost, 0, "of 10 locks whose blobs answer at once");
    assert!(bad.iter().all(|guard| guard.check().is_err()));
}
