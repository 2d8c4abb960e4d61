//! The checker of histories must find the violations of broken backends.

use std::time::Duration;

use tenure_conformance::{
    Harness,
    history::{Bounds, Property, Recorder, Violation, Workload, check},
};
use tenure_core::Client;

use crate::{flaw::Flaw, store::Broken};

const TTL: Duration = Duration::from_secs(2);

async fn violations(flaw: Option<Flaw>) -> Vec<Violation> {
    let env = Broken(flaw).start().await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let client = Client::builder(env.connector()).ttl(TTL).connect();
        clients.push(client.await.unwrap());
    }
    let recorder = Recorder::new();
    let workload = Workload::start(&recorder, &clients, 4, 2, Duration::from_millis(20));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let history = workload.finish(100, 20).await.unwrap();
    let takeover = clients[0].capabilities().takeover.of(TTL, TTL);
    check(&history, &Bounds::new(takeover, Duration::from_secs(5)))
}

fn finds(found: &[Violation], property: Property) -> bool {
    found.iter().any(|violation| violation.property == property)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x1_two_holders_are_seen_in_the_history_of_a_run() {
    assert_eq!(violations(None).await, []);
    for flaw in [Flaw::NoExclusion, Flaw::ReleaseWakesAll] {
        let found = violations(Some(flaw)).await;
        assert!(finds(&found, Property::TwoHolders), "{flaw:?}: {found:?}");
    }
}
