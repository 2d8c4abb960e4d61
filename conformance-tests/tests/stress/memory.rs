//! The run without faults, on a store that cannot fail: what accuses it accuses anything. And the
//! control: without a check of tokens, holders that stand still lose writes.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod faulted_run;
mod verdict;

use std::{sync::Arc, thread::sleep, time::Duration};

use tenure_conformance::{
    fault::Faulty,
    history::{Bounds, Property, Recorder, Violation, Workload, check},
};
use tenure_core::{Client, backend::Connect, memory::MemoryStore};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_backend_is_accused_of_nothing() {
    let store = MemoryStore::new();
    let connectors = (0..3)
        .map(|_| Arc::new(store.clone()) as Arc<dyn Connect>)
        .collect();
    let ttl = Duration::from_secs(2);
    faulted_run::run("stress-memory", connectors, ttl, |_| {
        assert!(faulted_run::random_below(10) < 10);
        sleep(Duration::from_secs(3));
    })
    .await;
}

/// Workers take turns at a lock; some holders are cut off past their lease, and write all the same.
async fn careless(checks_tokens: bool) -> Vec<Violation> {
    const TTL: Duration = Duration::from_millis(500);
    let store = MemoryStore::new();
    let connect = || async {
        let client = Client::builder(store.clone()).ttl(TTL).connect().await;
        client.unwrap()
    };
    let clients = [connect().await, connect().await];
    let faulty = Faulty::above(Arc::new(store.clone()));
    let cut = Client::builder(faulty.connector()).ttl(TTL).connect().await;
    let cut = cut.unwrap();
    let recorder = Recorder::new();
    let start = if checks_tokens {
        Workload::start
    } else {
        Workload::start_without_tokens
    };
    let workload = start(&recorder, &clients, 2, 1, Duration::from_millis(5));
    let mut overtaken = 0;
    for _ in 0..20 {
        let turn = workload.careless_turn(&cut, faulty.line(), Duration::from_secs(10));
        overtaken += u32::from(turn.await);
        if overtaken >= 3 {
            break;
        }
    }
    assert!(overtaken >= 3, "no holder was overtaken while it was away");
    let history = workload.finish(5, 2).await.unwrap();
    let takeover = cut.capabilities().takeover.of(TTL, TTL);
    check(&history, &Bounds::new(takeover, Duration::from_secs(5)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_without_a_check_of_tokens_holders_that_stand_still_lose_writes() {
    let found = careless(false).await;
    assert!(
        found
            .iter()
            .any(|violation| violation.property == Property::LostUpdate),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_with_a_check_of_tokens_they_lose_none() {
    assert_eq!(careless(true).await, []);
}
