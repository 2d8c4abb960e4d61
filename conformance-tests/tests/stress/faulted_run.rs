//! A run under faults, and its verdict.

use std::{sync::Arc, time::Duration};

use tenure_conformance::history::{Bounds, Recorder, Workload};
use tenure_core::{Client, backend::Connect};

use crate::verdict::judge;

/// How long workers may hold a lock in one turn.
const MAX_HOLD: Duration = Duration::from_millis(30);
const LOCKS: usize = 3;
const WORKERS: usize = 4;
/// How late a loss may be told and a waiter served, on a machine that is busy with other things.
const SLACK: Duration = Duration::from_secs(5);

/// Injects faults while workers of a client for each of the connectors fight over three locks.
///
/// `inject` blocks its thread; it takes down in the recorder what it does.
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
    // Everything is whole again: each waiter that was in trouble must come to its turn.
    tokio::time::sleep(takeover).await;
    let history = workload.finish(300, 100).await.unwrap();
    judge(what, history, Bounds::new(takeover, SLACK));
    for client in clients {
        client.shutdown(Duration::from_secs(5)).await;
    }
}

/// A number below that bound, another one in each run.
pub(crate) fn random_below(bound: usize) -> usize {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    (u64::from_ne_bytes(bytes) % bound as u64) as usize
}
