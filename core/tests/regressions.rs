//! Regressions of the client: sequences of lost answers, slow stores and cancellations that once
//! violated a clause.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tenure_core::{
    Client, Release,
    backend::{Backend, BackendInfo, Connect, Context, RenewalAnswers},
    capability::{Capabilities, TtlRange, TtlScope},
    error::{Error, ErrorKind},
    memory::{InjectedFault, MemoryStore},
    name::{LockName, Namespace},
    request::{
        Enqueue, Enqueued, Evicted, List, LockState, Page, Remove, Removed, Renewal, Renewed,
    },
    token::FencingToken,
};

#[derive(Debug, Clone, Default)]
struct Twist {
    enqueue_delay: Duration,
    /// Number of enqueues that are answered with "gone" first.
    gone: Arc<AtomicU32>,
    /// Whether reports are rejected with `PermissionDenied`.
    forbidden: Arc<AtomicBool>,
    /// Number of enqueues that cannot be sent.
    unreachable: Arc<AtomicU32>,
    pooled: bool,
    enqueues: Arc<AtomicU32>,
    removes: Arc<Mutex<Vec<String>>>,
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
        let mut capabilities = self.0.capabilities().await?;
        if self.1.pooled {
            let ttl = capabilities.ttl;
            capabilities.ttl = TtlRange::new(ttl.min, ttl.max, ttl.granularity, TtlScope::Pooled);
        }
        Ok(capabilities)
    }
    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        let left = &self.1.unreachable;
        let less = |left: u32| left.checked_sub(1);
        if left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_ok()
        {
            return Err(Error::new(ErrorKind::Unavailable, "acquiring"));
        }
        self.1.enqueues.fetch_add(1, Ordering::SeqCst);
        if self
            .1
            .gone
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_ok()
        {
            return Ok(Enqueued::Gone);
        }
        let answer = self.0.enqueue(request).await;
        if !self.1.enqueue_delay.is_zero() {
            tokio::time::sleep(self.1.enqueue_delay).await;
        }
        answer
    }
    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        if self.1.forbidden.load(Ordering::SeqCst) {
            let error = Error::new(ErrorKind::PermissionDenied, "renewing");
            for index in 0..entries.len() {
                answers.send(index, Renewed::Unknown(error.clone()));
            }
            return;
        }
        self.0.renew(entries, answers).await;
    }
    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        self.1
            .removes
            .lock()
            .unwrap()
            .push(request.name.to_string());
        self.0.remove(request).await
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

/// R1: "To find nothing after an unanswered removal of one's own, before `valid_until`, is
/// `Released`". The removals of the first call are executed, but their answers are lost: `Unknown`.
/// The second call finds no entry.
#[tokio::test]
async fn r1_release_again_after_unknown_is_released() {
    let store = MemoryStore::new();
    let client = Client::builder(store.clone())
        .request_timeout(Duration::from_millis(200))
        .connect()
        .await
        .unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    store.set_fault(InjectedFault::LoseReplies);
    let first = guard.release().await;
    assert!(matches!(first, Release::Unknown(_)), "{first:?}");
    store.set_fault(InjectedFault::None);
    let second = guard.release().await;
    assert!(matches!(second, Release::Released), "{second:?}");
}

/// R1 with a cancellation: the removal continues in the background, and can be repeated.
#[tokio::test]
async fn r1_release_again_after_cancelled_release_is_released() {
    let store = MemoryStore::new();
    let client = Client::builder(store.clone()).connect().await.unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    store.set_fault(InjectedFault::Hang);
    assert!(
        tokio::time::timeout(Duration::from_millis(50), guard.release())
            .await
            .is_err()
    );
    store.set_fault(InjectedFault::None);
    // The removal in the background removes the entry.
    while store.token(&Namespace::default(), guard.name()).is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let second = guard.release().await;
    assert!(matches!(second, Release::Released), "{second:?}");
}

/// L4 "releasing it gives NotHeld", and `Guard::release`: another call returns the same answer.
#[tokio::test]
async fn l4_lost_guard_stays_not_held() {
    let store = MemoryStore::new();
    let client = Client::builder(store.clone()).connect().await.unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    store.delete_state(&Namespace::default(), guard.name());
    let first = guard.release().await;
    assert!(matches!(first, Release::NotHeld(_)), "{first:?}");
    let second = guard.release().await;
    assert!(
        matches!(second, Release::NotHeld(_)),
        "first {first:?}, then {second:?}"
    );
}

/// A1: `try_acquire` has a time limit for the network. The store's answers take longer than the
/// lease is valid, and less than the request time-out.
#[tokio::test]
async fn a1_try_acquire_on_slow_store_ends() {
    let twist = Twist {
        enqueue_delay: Duration::from_millis(300),
        ..Twist::default()
    };
    let store = TwistedStore(MemoryStore::new(), twist.clone());
    let limit = Duration::from_secs(1);
    let client = Client::builder(store)
        .request_timeout(limit)
        .connect()
        .await
        .unwrap();
    let lock = client.lock("a").unwrap().ttl(Duration::from_millis(250));
    let done = tokio::time::timeout(limit * 5, lock.try_acquire()).await;
    assert!(
        done.is_ok(),
        "still trying after {} enqueues",
        twist.enqueues.load(Ordering::SeqCst)
    );
    assert!(done.unwrap().is_err());
}

/// W5 and the documentation of `Enqueued::Gone`: the attempt was removed before this request was
/// executed. The acquire continues with a new attempt; the client was not shut down.
#[tokio::test]
async fn w5_enqueue_answered_gone_continues_with_new_attempt() {
    let twist = Twist {
        gone: Arc::new(AtomicU32::new(1)),
        ..Twist::default()
    };
    let store = TwistedStore(MemoryStore::new(), twist);
    let client = Client::builder(store).connect().await.unwrap();
    let outcome = client.lock("a").unwrap().acquire().await;
    if let Err(error) = &outcome {
        assert_ne!(error.kind(), ErrorKind::Closed, "{error}");
    }
    assert!(outcome.is_ok());
}

/// R3: a dropped guard is released in the background, also on a pooled store after other guards
/// were abandoned.
#[tokio::test]
async fn r3_abandoned_guards_do_not_delay_other_releases() {
    let twist = Twist {
        pooled: true,
        ..Twist::default()
    };
    let store = TwistedStore(MemoryStore::new(), twist);
    let client = Client::builder(store.clone())
        .ttl(Duration::from_secs(30))
        .connect()
        .await
        .unwrap();
    for n in 0..64 {
        client
            .lock(format!("abandoned-{n}"))
            .unwrap()
            .acquire()
            .await
            .unwrap()
            .abandon();
    }
    let name = LockName::new("dropped").unwrap();
    drop(client.lock_named(name.clone()).acquire().await.unwrap());
    let released = async {
        while store.0.token(&Namespace::default(), &name).is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), released)
        .await
        .unwrap();
}

/// W2, W5: a waiter that has lost its position continues to wait during an outage of the store. An
/// acquire that does not wait fails at once.
#[tokio::test]
async fn w5_waiter_that_lost_its_position_survives_an_outage() {
    let twist = Twist::default();
    let store = TwistedStore(MemoryStore::new(), twist.clone());
    let client = Client::builder(store.clone())
        .ttl(Duration::from_millis(400))
        .connect()
        .await
        .unwrap();
    let name = LockName::new("a").unwrap();
    twist.unreachable.store(1, Ordering::SeqCst);
    let refused = client.lock_named(name.clone()).try_acquire().await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable);

    let first = client.lock_named(name.clone()).acquire().await.unwrap();
    let (told, waits) = tokio::sync::oneshot::channel();
    let mut told = Some(told);
    let waiting = tokio::spawn({
        let lock = client.lock_named(name.clone());
        async move {
            let tell = |_: &_| {
                let _ = told.take().map(|told| told.send(()));
            };
            lock.acquire_observed(None, tell).await
        }
    });
    waits.await.unwrap();
    twist.unreachable.store(3, Ordering::SeqCst);
    assert!(store.0.delete_state(&Namespace::default(), &name));
    let turn = tokio::time::timeout(Duration::from_secs(10), waiting);
    let outcome = turn.await.unwrap().unwrap().unwrap();
    assert!(outcome.acquired().is_some());
    assert_eq!(twist.unreachable.load(Ordering::SeqCst), 0);
    drop(first);
}

/// A waiter whose reports fail permanently returns the error instead of waiting forever.
#[tokio::test]
async fn w2_waiter_with_denied_reports_fails() {
    let twist = Twist::default();
    let store = TwistedStore(MemoryStore::new(), twist.clone());
    let client = Client::builder(store.clone())
        .ttl(Duration::from_millis(400))
        .connect()
        .await
        .unwrap();
    let first = client.lock("a").unwrap().acquire().await.unwrap();
    twist.forbidden.store(true, Ordering::SeqCst);
    let second = client.lock("a").unwrap();
    let waiting = tokio::time::timeout(Duration::from_secs(10), second.acquire());
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(error.operation(), "waiting for");
    drop(first);
}
