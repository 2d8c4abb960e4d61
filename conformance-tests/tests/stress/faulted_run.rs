//! A run with faults.

use std::{sync::Arc, time::Duration};

use tenure_conformance::history::{Bounds, Recorder, Workload};
use tenure_core::{Client, backend::Connect};

use crate::verdict::judge;

/// The longest time for which a worker holds a lock.
const MAX_HOLD: Duration = Duration::from_millis(30);
const LOCKS: usize = 3;
const WORKERS: usize = 4;
/// The tolerance for reports of losses and for grants on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

/// Injects faults while workers of one client for each connector compete for three locks.
///
/// `inject` blocks its thread and records its faults.
pub(crate) async fn run(
    what: &str,
    connectors: Vec<Arc<dyn Connect>>,
    ttl: Duration,
    inject: impl FnOnce(&Recorder) + Send + 'static,
) {
    let mut clients = Vec::new();
    for connector in connectors {
        clients.push(Client::builder(connector).ttl(ttl).connect().await.unwrap());
    }
    let takeover = clients[0].capabilities().takeover.of(ttl, ttl);
    let recorder = Recorder::new();
    let workload = Workload::start(&recorder, &clients, WORKERS, LOCKS, MAX_HOLD);
    let faults = recorder.clone();
    tokio::task::spawn_blocking(move || inject(&faults))
        .await
        .unwrap();
    // Without faults, each waiter must be granted.
    tokio::time::sleep(takeover).await;
    let history = workload.finish(300, 100).await.unwrap();
    judge(what, history, Bounds::new(takeover, SLACK));
    for client in clients {
        client.shutdown(Duration::from_secs(5)).await;
    }
}

/// Returns a random number below `bound`.
pub(crate) fn random_below(bound: usize) -> usize {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    (u64::from_ne_bytes(bytes) % bound as u64) as usize
}
