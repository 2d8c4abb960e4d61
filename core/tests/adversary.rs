//! Finds of an adversarial review; each test states the clause that it shows to be broken.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tenure_core::{
    Client, Release,
    backend::{Backend, BackendInfo, Connect, Context, RenewalAnswers},
    capability::Capabilities,
    error::Error,
    memory::MemoryStore,
    name::{LockName, Namespace},
    request::{Enqueue, Enqueued, Evicted, List, LockState, Page, Remove, Removed, Renewal},
    token::FencingToken,
};
use tokio::time::{sleep, timeout};

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[derive(Debug, Clone, Default)]
struct Twist {
    /// Requests about locks whose names begin with this are never answered.
    down: Option<&'static str>,
    /// Before its request, a renewal takes a step of this length, as one of several requests.
    renewal_step: Duration,
    /// How late the answer to a removal is.
    removal_delay: Duration,
    log: Arc<Mutex<Vec<&'static str>>>,
}

impl Twist {
    fn note(&self, what: &'static str) {
        self.log.lock().unwrap().push(what);
    }

    async fn reach(&self, name: &LockName) {
        if self.down.is_some_and(|down| name.as_str().starts_with(down)) {
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Debug, Clone)]
struct TwistedStore(MemoryStore, Twist);

#[derive(Debug)]
struct Twisted(Arc<dyn Backend>, Twist);

#[async_trait]
impl Connect for TwistedStore {
    fn info(&self) -> BackendInfo {
        Connect::info(&self.0)
    }
    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        let inner = self.0.connect(context).await?;
        Ok(Arc::new(Twisted(inner, self.1.clone())))
    }
}

#[async_trait]
impl Backend for Twisted {
    fn info(&self) -> BackendInfo {
        self.0.info()
    }
    async fn capabilities(&self) -> Result<Capabilities, Error> {
        self.0.capabilities().await
    }
    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        self.1.reach(&request.name).await;
        self.0.enqueue(request).await
    }
    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        self.1.note("renewal begins");
        sleep(self.1.renewal_step).await;
        self.1.note("renewal is sent");
        self.0.renew(entries, answers).await;
    }
    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        self.1.reach(&request.name).await;
        self.1.note("removal is sent");
        let answer = self.0.remove(request).await;
        sleep(self.1.removal_delay).await;
        answer
    }
    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        self.0.inspect(name).await
    }
    async fn list(&self, request: List) -> Result<Page, Error> {
        self.0.list(request).await
    }
    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        self.0.evict(name, token).await
    }
    async fn close(&self) {
        self.0.close().await;
    }
}

/// FAILS. R3 ("the guard is released in the background; the TTL is the last resort"), A4 ("within a
/// round trip").
///
/// One part of the store is silent, such as one node of a cluster. Each of 20 waits for locks there
/// is repeated with a new attempt (`acquire.rs`, "a wait outlives a request that failed"), and each
/// old attempt leaves a removal that is retried for a TTL. They fill the 64 places of the releaser
/// (`releaser.rs`, `MAX_CONCURRENT_REMOVALS`), and the release of a guard that is dropped at the
/// healthy part is not sent.
#[tokio::test]
async fn r3_waits_at_a_silent_part_of_the_store_block_no_other_release() {
    let twist = Twist {
        down: Some("down"),
        ..Twist::default()
    };
    let store = TwistedStore(MemoryStore::new(), twist);
    let client = Client::builder(store.clone())
        .ttl(Duration::from_secs(30))
        .request_timeout(millis(200))
        .connect()
        .await
        .unwrap();
    let name = LockName::new("healthy").unwrap();
    let guard = client.lock_named(name.clone()).acquire().await.unwrap();
    for n in 0..20 {
        let lock = client.lock(format!("down {n}")).unwrap();
        tokio::spawn(async move { lock.acquire().await });
    }
    sleep(Duration::from_secs(5)).await;
    assert!(guard.check().is_ok());
    // Waits for no answer of the silent part.
    let begun = Instant::now();
    drop(guard);
    let released = async {
        while store.0.token(&Namespace::default(), &name).is_some() {
            sleep(millis(20)).await;
        }
    };
    let released = timeout(Duration::from_secs(10), released).await;
    println!("after {:?}: {released:?}", begun.elapsed());
    assert!(released.is_ok(), "a dropped guard is not released");
}

/// FAILS. K3 ("no renewal is sent after the release is sent"). A renewal that is overdue is no longer
/// dropped at the request time-out (`renewer.rs`, `mark_overdue`), but a release waits for it for one
/// request time-out only (`guard.rs`, `remove`; `wait_idle`).
#[tokio::test]
async fn k3_a_renewal_of_several_steps_sends_none_after_the_release() {
    let twist = Twist {
        renewal_step: millis(900),
        ..Twist::default()
    };
    let store = TwistedStore(MemoryStore::new(), twist.clone());
    let client = Client::builder(store)
        .ttl(Duration::from_secs(3))
        .request_timeout(millis(200))
        .connect()
        .await
        .unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    while twist.log.lock().unwrap().is_empty() {
        sleep(millis(5)).await;
    }
    let release = guard.release().await;
    sleep(Duration::from_secs(2)).await;
    let log = twist.log.lock().unwrap().clone();
    println!("{release:?} {log:?}");
    let removal = log.iter().position(|what| *what == "removal is sent");
    let later = log[removal.unwrap()..].contains(&"renewal is sent");
    assert!(!later, "{log:?}");
}

/// FAILS. R1: "if an *earlier* removal got no answer, a removal that finds nothing counts as
/// `Released`". Here the first removal finds nothing, because an operator has evicted the grant and
/// another client has it. The second removal, which is sent beside the first, makes the first one's
/// answer count as `Released` (`guard.rs`: `unanswered = true`).
#[tokio::test]
async fn r1_an_evicted_grant_is_not_released_because_the_network_is_slow() {
    let twist = Twist {
        removal_delay: millis(600),
        ..Twist::default()
    };
    let store = TwistedStore(MemoryStore::new(), twist.clone());
    let client = Client::builder(store.clone())
        .ttl(Duration::from_secs(30))
        .request_timeout(Duration::from_secs(1))
        .connect()
        .await
        .unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    // The state is deleted by hand: the client has not learned of it (L2: with the next renewal).
    assert!(store.0.delete_state(&Namespace::default(), guard.name()));
    let other = Client::builder(store.0.clone()).connect().await.unwrap();
    let next = other.lock("a").unwrap().acquire().await.unwrap();
    let release = guard.release().await;
    println!("{release:?} {:?}", twist.log.lock().unwrap());
    assert!(next.check().is_ok());
    assert!(
        matches!(release, Release::NotHeld(_)),
        "{release:?}, although another client holds the lock since before the release"
    );
}

/// FAILS. R5 ("releases all that it holds within the time given"): a shutdown waits a whole request
/// time-out for a renewal that hangs, although the store answers the removal at once.
#[tokio::test]
async fn r5_a_renewal_that_hangs_does_not_use_up_the_time_of_a_shutdown() {
    let twist = Twist {
        renewal_step: Duration::from_secs(60),
        ..Twist::default()
    };
    let store = TwistedStore(MemoryStore::new(), twist.clone());
    let client = Client::builder(store)
        .ttl(Duration::from_secs(20))
        .request_timeout(Duration::from_secs(5))
        .connect()
        .await
        .unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    while twist.log.lock().unwrap().is_empty() {
        sleep(millis(5)).await;
    }
    let report = client.shutdown(Duration::from_secs(3)).await;
    println!("{report:?} {:?}", twist.log.lock().unwrap());
    drop(guard);
    assert_eq!(report.released, 1, "{report:?}");
}

/// FAILS. The documentation of `Guard::release`: "If no answer arrives, the removal is retried, for one
/// request time-out in total." On a store that is silent it takes two: one for a renewal that is
/// under way, one for the removal.
#[tokio::test]
async fn a_release_on_a_silent_store_takes_one_request_time_out() {
    let limit = millis(500);
    let twist = Twist {
        renewal_step: Duration::from_secs(60),
        removal_delay: Duration::from_secs(60),
        ..Twist::default()
    };
    let store = TwistedStore(MemoryStore::new(), twist.clone());
    let client = Client::builder(store)
        .ttl(Duration::from_secs(3))
        .request_timeout(limit)
        .connect()
        .await
        .unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    while twist.log.lock().unwrap().is_empty() {
        sleep(millis(5)).await;
    }
    let begun = Instant::now();
    let release = guard.release().await;
    println!("{release:?} after {:?}", begun.elapsed());
    assert!(begun.elapsed() < limit * 3 / 2, "{:?}", begun.elapsed());
}
