//! The clauses on a store of which one part is silent, or whose answers are late.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
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
use tokio::time::{Instant, sleep, timeout};

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
        if self
            .down
            .is_some_and(|down| name.as_str().starts_with(down))
        {
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
        if (0..entries.len()).any(|index| answers.is_wanted(index)) {
            self.1.note("renewal is sent");
            self.0.renew(entries, answers).await;
        }
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

/// Each wait at the silent part repeats its request and leaves removals behind. They must not take
/// all places of the releaser.
#[tokio::test]
async fn r3_waits_at_a_silent_part_delay_no_release_at_another_part() {
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

/// A release waits for a renewal that is under way for one request time-out. After that, a driver
/// that needs several requests sends none of the others.
#[tokio::test]
async fn k3_renewal_of_several_requests_sends_none_after_the_release() {
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

/// A slow answer makes the guard send a second removal beside the first. That one is not earlier than
/// the first, which finds nothing, because an operator has deleted the grant.
#[tokio::test]
async fn r1_evicted_grant_is_not_reported_as_released_on_a_slow_network() {
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

/// The store would answer the removal at once.
#[tokio::test]
async fn r5_renewal_that_hangs_leaves_time_for_a_shutdown() {
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

/// One for a renewal that is under way, and one for the removal.
#[tokio::test]
async fn release_on_a_silent_store_takes_two_request_time_outs() {
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
    assert!(begun.elapsed() < limit * 5 / 2, "{:?}", begun.elapsed());
}
