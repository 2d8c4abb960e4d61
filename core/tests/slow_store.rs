//! The clauses on a store of which one part is silent, or whose answers are late.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod faulty_store;

use std::{future::Future, time::Duration};

use faulty_store::{Faults, FaultyStore};
use tenure_core::{
    Client, Lock, Release,
    memory::MemoryStore,
    name::{LockName, Namespace},
};
use tokio::time::{Instant, sleep, timeout};

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

async fn client(store: &FaultyStore, ttl: Duration, request_timeout: Duration) -> Client {
    let client = Client::builder(store.clone()).ttl(ttl);
    let client = client.request_timeout(request_timeout).connect().await;
    client.unwrap()
}

async fn renewal_begins(faults: &Faults) {
    while faults.log.lock().unwrap().is_empty() {
        sleep(millis(5)).await;
    }
}

/// A guard that is dropped must be released while `requests` wait for answers of the silent part.
async fn is_released_beside<F: Future + Send + 'static>(request: impl Fn(Lock) -> F)
where
    F::Output: Send,
{
    let faults = Faults {
        silent: Some("silent"),
        ..Faults::default()
    };
    let store = FaultyStore(MemoryStore::new(), faults);
    let client = client(&store, seconds(30), seconds(3)).await;
    let name = LockName::new("healthy").unwrap();
    let guard = client.lock_named(name.clone()).acquire().await.unwrap();
    for n in 0..200 {
        tokio::spawn(request(client.lock(format!("silent {n}")).unwrap()));
    }
    // The requests have failed, and their removals are under way.
    sleep(seconds(4)).await;
    assert!(guard.check().is_ok());
    drop(guard);
    let released = async {
        while store.0.token(&Namespace::default(), &name).is_some() {
            sleep(millis(20)).await;
        }
    };
    let released = timeout(seconds(3), released).await;
    assert!(released.is_ok(), "a dropped guard is not released");
}

#[tokio::test]
async fn r3_waits_at_a_silent_part_delay_no_release_at_another_part() {
    is_released_beside(async |lock: Lock| drop(lock.acquire().await)).await;
}

/// The removal of each try is retried for a TTL.
#[tokio::test]
async fn r3_tries_at_a_silent_part_delay_no_release_at_another_part() {
    is_released_beside(async |lock: Lock| drop(lock.try_acquire().await)).await;
}

/// A release waits for a renewal that is under way for one request time-out. After that, a driver
/// that needs several requests sends none of the others.
#[tokio::test]
async fn k3_renewal_of_several_requests_sends_none_after_the_release() {
    let faults = Faults {
        renewal_step: millis(900),
        ..Faults::default()
    };
    let store = FaultyStore(MemoryStore::new(), faults.clone());
    let client = client(&store, seconds(3), millis(200)).await;
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    renewal_begins(&faults).await;
    let release = guard.release().await;
    sleep(seconds(2)).await;
    let log = faults.log.lock().unwrap().clone();
    println!("{release:?} {log:?}");
    let removal = log.iter().position(|what| *what == "removal is sent");
    let later = log[removal.unwrap()..].contains(&"renewal is sent");
    assert!(!later, "{log:?}");
}

/// A slow answer makes the guard send a second removal beside the first. That one is not earlier than
/// the first, which finds nothing, because an operator has deleted the grant.
#[tokio::test]
async fn r1_evicted_grant_is_not_reported_as_released_on_a_slow_network() {
    let faults = Faults {
        removal_delay: millis(600),
        ..Faults::default()
    };
    let store = FaultyStore(MemoryStore::new(), faults.clone());
    let client = client(&store, seconds(30), seconds(1)).await;
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    // The state is deleted by hand: the client has not learned of it (L2: with the next renewal).
    assert!(store.0.delete_state(&Namespace::default(), guard.name()));
    let other = Client::builder(store.0.clone()).connect().await.unwrap();
    let next = other.lock("a").unwrap().acquire().await.unwrap();
    let release = guard.release().await;
    println!("{release:?} {:?}", faults.log.lock().unwrap());
    assert!(next.check().is_ok());
    assert!(
        matches!(release, Release::NotHeld(_)),
        "{release:?}, although another client holds the lock since before the release"
    );
}

/// The store would answer the removal at once.
#[tokio::test]
async fn r5_renewal_that_hangs_leaves_time_for_a_shutdown() {
    let faults = Faults {
        renewal_step: seconds(60),
        ..Faults::default()
    };
    let store = FaultyStore(MemoryStore::new(), faults.clone());
    let client = client(&store, seconds(20), seconds(5)).await;
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    renewal_begins(&faults).await;
    let report = client.shutdown(seconds(3)).await;
    println!("{report:?} {:?}", faults.log.lock().unwrap());
    drop(guard);
    assert_eq!(report.released, 1, "{report:?}");
}

/// One for a renewal that is under way, and one for the removal.
#[tokio::test]
async fn release_on_a_silent_store_takes_two_request_time_outs() {
    let limit = millis(500);
    let faults = Faults {
        renewal_step: seconds(60),
        removal_delay: seconds(60),
        ..Faults::default()
    };
    let store = FaultyStore(MemoryStore::new(), faults.clone());
    let client = client(&store, seconds(3), limit).await;
    let guard = client.lock("a").unwrap().acquire().await.unwrap();
    renewal_begins(&faults).await;
    let begun = Instant::now();
    let release = guard.release().await;
    println!("{release:?} after {:?}", begun.elapsed());
    assert!(begun.elapsed() < limit * 5 / 2, "{:?}", begun.elapsed());
}

/// R3: a drop waits for a store on this machine, and a hundred drops do not wait a hundred times if it
/// does not answer.
#[tokio::test]
async fn r3_many_drops_wait_once_for_a_local_store_that_hangs() {
    let faults = Faults {
        local: true,
        removal_delay: Duration::from_secs(3_600),
        ..Faults::default()
    };
    let store = FaultyStore(MemoryStore::new(), faults.clone());
    let client = Client::builder(store).connect().await.unwrap();
    let mut guards = Vec::new();
    for number in 0..100 {
        let lock = client.lock(format!("{number}")).unwrap();
        guards.push(lock.acquire().await.unwrap());
    }
    let begun = Instant::now();
    guards.pop();
    let tried = !faults.removes.lock().unwrap().is_empty();
    assert!(tried, "the drop itself tries");
    drop(guards);
    // Ten seconds if each waited.
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}
