//! A run without faults on a store that cannot fail must have no violation. As a control, disconnected
//! holders lose writes if the resource does not check tokens, and a leak fails the long run.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod connection_faults;
mod faulted_run;
mod growth;
mod leaks;
mod verdict;

use std::{sync::Arc, thread::sleep, time::Duration};

use tenure_conformance::{
    fault::Faulty,
    history::{Bounds, Property, Recorder, Violation, Workload, check},
};
use tenure_core::{Client, backend::Connect, memory::MemoryStore};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_backend_has_no_violation() {
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

/// Workers compete for a lock; some holders are disconnected past their lease, and still write.
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
    assert!(
        overtaken >= 3,
        "no holder was succeeded while it was disconnected"
    );
    let history = workload.finish(5, 2).await.unwrap();
    let takeover = cut.capabilities().takeover.of(TTL, TTL);
    check(&history, &Bounds::new(takeover, Duration::from_secs(5)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_without_token_checks_disconnected_holders_lose_writes() {
    let found = careless(false).await;
    assert!(
        found
            .iter()
            .any(|violation| violation.property == Property::LostUpdate),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_with_token_checks_no_write_is_lost() {
    assert_eq!(careless(true).await, []);
}
