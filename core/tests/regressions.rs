//! Regressions of the client: sequences of lost answers, slow stores and cancellations that once
//! violated a clause.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod faulty_store;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use faulty_store::{Faults, FaultyStore};
use tenure_core::{
    Client, Release,
    error::ErrorKind,
    memory::{InjectedFault, MemoryStore},
    name::{LockName, Namespace},
};

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
    let faults = Faults {
        enqueue_delay: Duration::from_millis(300),
        ..Faults::default()
    };
    let store = FaultyStore(MemoryStore::new(), faults.clone());
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
        faults.enqueues.load(Ordering::SeqCst)
    );
    assert!(done.unwrap().is_err());
}

/// W5 and the documentation of `Enqueued::Gone`: the attempt was removed before this request was
/// executed. The acquire continues with a new attempt; the client was not shut down.
#[tokio::test]
async fn w5_enqueue_answered_gone_continues_with_new_attempt() {
    let faults = Faults {
        gone: Arc::new(AtomicU32::new(1)),
        ..Faults::default()
    };
    let store = FaultyStore(MemoryStore::new(), faults);
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
    let faults = Faults {
        pooled: true,
        ..Faults::default()
    };
    let store = FaultyStore(MemoryStore::new(), faults);
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
    let faults = Faults::default();
    let store = FaultyStore(MemoryStore::new(), faults.clone());
    let client = Client::builder(store.clone())
        .ttl(Duration::from_millis(400))
        .connect()
        .await
        .unwrap();
    let name = LockName::new("a").unwrap();
    faults.unreachable.store(1, Ordering::SeqCst);
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
    faults.unreachable.store(3, Ordering::SeqCst);
    assert!(store.0.delete_state(&Namespace::default(), &name));
    let turn = tokio::time::timeout(Duration::from_secs(10), waiting);
    let outcome = turn.await.unwrap().unwrap().unwrap();
    assert!(outcome.acquired().is_some());
    assert_eq!(faults.unreachable.load(Ordering::SeqCst), 0);
    drop(first);
}

/// A waiter whose reports fail permanently returns the error instead of waiting forever.
#[tokio::test]
async fn w2_waiter_with_denied_reports_fails() {
    let faults = Faults::default();
    let store = FaultyStore(MemoryStore::new(), faults.clone());
    let client = Client::builder(store.clone())
        .ttl(Duration::from_millis(400))
        .connect()
        .await
        .unwrap();
    let first = client.lock("a").unwrap().acquire().await.unwrap();
    faults.forbidden.store(true, Ordering::SeqCst);
    let second = client.lock("a").unwrap();
    let waiting = tokio::time::timeout(Duration::from_secs(10), second.acquire());
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(error.operation(), "waiting for");
    drop(first);
}
