//! A store's messages that arrive before its earlier answers.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may panic, and measures"
)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tenure_core::{
    Acquisition, Client,
    backend::{Backend, BackendEvent, BackendInfo, Connect, Context, RenewalAnswers},
    capability::Capabilities,
    clock::ManualClock,
    error::Error,
    id::AttemptId,
    lease::Phase,
    memory::MemoryStore,
    name::LockName,
    request::{
        Enqueue, Enqueued, Evicted, Grant, List, LockState, Page, Remove, Removed, Renewal,
        Renewed, StoreTime, Waiting,
    },
    token::FencingToken,
};

/// A store of one lock. The test controls when and how the first waiter's report is answered; all
/// other requests are answered at once.
#[derive(Debug, Clone, Default)]
struct ControlledStore {
    /// Whether an enqueue is granted.
    grant: bool,
    context: Arc<Mutex<Option<Context>>>,
    first: Arc<tokio::sync::Notify>,
    renews: Arc<AtomicU32>,
    /// The attempts of all enqueues.
    attempts: Arc<Mutex<Vec<AttemptId>>>,
    /// Whether `Recheck` is sent right before the first answer.
    look: bool,
    /// Whether each report after the first one is answered "still waiting".
    waits: bool,
    /// Whether each renewal's proof is sent as an event and the call never returns.
    parts: bool,
}

#[async_trait]
impl Connect for ControlledStore {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("gate", "gate:")
    }
    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        *self.context.lock().unwrap() = Some(context);
        Ok(Arc::new(self.clone()))
    }
}

impl ControlledStore {
    fn now(&self) -> tenure_core::clock::Instant {
        self.context.lock().unwrap().as_ref().unwrap().clock.now()
    }
}

#[async_trait]
impl Backend for ControlledStore {
    fn info(&self) -> BackendInfo {
        Connect::info(self)
    }
    async fn capabilities(&self) -> Result<Capabilities, Error> {
        let memory = MemoryStore::new();
        let context = self.context.lock().unwrap().clone().unwrap();
        memory.connect(context).await?.capabilities().await
    }
    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        let now = self.now();
        self.attempts.lock().unwrap().push(request.attempt);
        Ok(if self.grant {
            Enqueued::Granted(Grant::proved(
                request.attempt,
                FencingToken::new(1),
                request.ttl,
                now,
            ))
        } else {
            Enqueued::Waiting(Waiting::new(now, StoreTime::new(1)).with_ahead(1))
        })
    }
    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        let from = self.now();
        let number = self.renews.fetch_add(1, Ordering::SeqCst);
        if self.parts {
            for index in 0..entries.len() {
                answers.send(index, Renewed::Proved { from });
            }
            std::future::pending::<()>().await;
        }
        if number == 0 {
            self.first.notified().await;
            if self.look {
                // The answer is based on a read before the message that announces the grant.
                let events = self
                    .context
                    .lock()
                    .unwrap()
                    .as_ref()
                    .unwrap()
                    .events
                    .clone();
                events.send(BackendEvent::Recheck {
                    attempt: entries[0].attempt,
                });
            }
        }
        for (index, entry) in entries.iter().enumerate() {
            let answer = match entry.token {
                Some(_) => Renewed::Proved { from },
                None if number == 0 || self.waits => {
                    let at = StoreTime::new(2 + u64::from(number));
                    Renewed::Waiting(Waiting::new(from, at).with_ahead(1))
                }
                None => Renewed::Granted(Grant::proved(
                    entry.attempt,
                    FencingToken::new(1),
                    entry.ttl,
                    from,
                )),
            };
            answers.send(index, answer);
        }
    }
    async fn remove(&self, _: Remove) -> Result<Removed, Error> {
        Ok(Removed::AsHolder)
    }
    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        Ok(LockState::new(name.clone(), None, Vec::new()))
    }
    async fn list(&self, _: List) -> Result<Page, Error> {
        Ok(Page::new(Vec::new(), None))
    }
    async fn evict(&self, _: &LockName, _: FencingToken) -> Result<Evicted, Error> {
        Ok(Evicted::NotHeld(None))
    }
    async fn close(&self) {}
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// W2 and ADR 0001: "`Recheck`: the core reports this waiter, with a report sent after the event".
/// The event arrives while a report is in flight whose answer follows at once.
#[tokio::test]
async fn w2_recheck_during_a_report_is_followed_by_another_report() {
    let store = ControlledStore {
        look: true,
        ..ControlledStore::default()
    };
    let client = Client::builder(store.clone())
        .ttl(Duration::from_secs(6))
        .connect()
        .await
        .unwrap();
    let lock = client.lock("a").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
    // The first report follows a third of the TTL later.
    until(|| store.renews.load(Ordering::SeqCst) == 1).await;
    store.first.notify_one();
    let begin = std::time::Instant::now();
    let _guard = waiter.await.unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "looked after {:?}",
        begin.elapsed()
    );
}

/// W1: a pushed grant whose proof is older than its lease does not show that the waiter's entry is
/// gone. The waiter keeps its place and asks the store.
#[tokio::test]
async fn w1_grant_with_an_old_proof_costs_no_place() {
    let clock = ManualClock::new();
    let store = ControlledStore::default();
    let client = Client::builder(store.clone())
        .ttl(Duration::from_secs(6))
        .clock(Arc::new(clock.clone()))
        .connect()
        .await
        .unwrap();
    clock.advance(Duration::from_secs(60));
    let old = store.now().before(Duration::from_secs(30));
    let lock = client.lock("a").unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
    until(|| !store.attempts.lock().unwrap().is_empty()).await;
    let attempt = store.attempts.lock().unwrap()[0];
    let grant = Grant::proved(attempt, FencingToken::new(1), Duration::from_secs(6), old);
    let context = store.context.lock().unwrap().clone().unwrap();
    // The second report is answered with a grant.
    store.first.notify_one();
    for _ in 0..100 {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        context.events.send(BackendEvent::Granted(grant.clone()));
        if waiter.is_finished() {
            break;
        }
        clock.advance(Duration::from_millis(100));
    }
    let guard = waiter.await.unwrap();
    assert!(guard.check().is_ok());
    assert_eq!(store.attempts.lock().unwrap().len(), 1, "one attempt");
}

/// A report that is given up says nothing about a waiter that a later report has confirmed: when the
/// budget ends, the lock is busy, and the store is not called unreachable.
#[tokio::test]
async fn a5_report_given_up_after_a_later_answer_is_no_error() {
    let clock = ManualClock::new();
    let store = ControlledStore {
        waits: true,
        ..ControlledStore::default()
    };
    let client = Client::builder(store.clone())
        .ttl(Duration::from_secs(6))
        .request_timeout(Duration::from_millis(500))
        .clock(Arc::new(clock.clone()))
        .connect()
        .await
        .unwrap();
    let lock = client.lock("a").unwrap();
    // The first report is sent after 2 s, and given up 4 s later.
    let waiter =
        tokio::spawn(async move { lock.acquire_within(Duration::from_millis(6_050)).await });
    for _ in 0..700 {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        if waiter.is_finished() {
            break;
        }
        clock.advance(Duration::from_millis(10));
    }
    assert!(store.renews.load(Ordering::SeqCst) > 1);
    let outcome = waiter.await.unwrap().unwrap();
    assert!(matches!(outcome, Acquisition::Busy(_)), "{outcome:?}");
}

/// `Guard::renew` renews now. An earlier renewal in flight is answered right afterwards.
#[tokio::test]
async fn k1_renew_sends_a_renewal_at_once() {
    let store = ControlledStore {
        grant: true,
        ..ControlledStore::default()
    };
    let client = Client::builder(store.clone())
        .ttl(Duration::from_secs(6))
        .connect()
        .await
        .unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    until(|| store.renews.load(Ordering::SeqCst) == 1).await;
    store.first.notify_one();
    let begin = std::time::Instant::now();
    guard.renew().await.unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "renewed after {:?}",
        begin.elapsed()
    );
}

/// K4, L5: a proof that was sent as an answer counts although the call then times out.
#[tokio::test]
async fn k4_answer_to_a_part_survives_timeout_of_the_call() {
    let store = ControlledStore {
        grant: true,
        parts: true,
        ..ControlledStore::default()
    };
    let client = Client::builder(store.clone())
        .ttl(Duration::from_secs(3))
        .request_timeout(Duration::from_millis(200))
        .connect()
        .await
        .unwrap();
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        assert_eq!(guard.phase(), Phase::Held);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // At each third of the TTL, not at each eighteenth.
    let renewals = store.renews.load(Ordering::SeqCst);
    assert!((3..=6).contains(&renewals), "{renewals} renewals in 4 s");
}

/// K1: locks that were acquired shortly after one another converge on shared batches.
#[tokio::test]
async fn k1_locks_acquired_shortly_after_one_another_share_batches() {
    let clock = ManualClock::new();
    let store = ControlledStore {
        grant: true,
        ..ControlledStore::default()
    };
    let client = Client::builder(store.clone())
        .clock(Arc::new(clock.clone()))
        .connect()
        .await
        .unwrap();
    store.first.notify_one();
    let mut guards = Vec::new();
    for name in ["a", "b", "c"] {
        guards.push(client.lock(name).unwrap().acquire().await.unwrap());
        clock.advance(Duration::from_secs(1));
    }
    for _ in 0..40 {
        clock.advance(Duration::from_millis(500));
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    // 23 s after the first: at 10 and at 20 s, for all three.
    assert_eq!(store.renews.load(Ordering::SeqCst), 2);
    assert!(guards.iter().all(|guard| guard.check().is_ok()));
}
