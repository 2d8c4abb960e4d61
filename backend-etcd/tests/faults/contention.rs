//! Clients that contend for one lock during a fault, and the properties that must hold throughout.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tenure_core::{Client, Guard};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::common::{WAIT_LIMIT, client, millis};

const LOCK: &str = "contended";

/// Clients that contend for one lock.
pub(crate) struct Contention {
    shared: Arc<SharedState>,
    clients: Vec<Client>,
    workers: Vec<JoinHandle<()>>,
    monitor: JoinHandle<()>,
}

#[derive(Default)]
struct SharedState {
    stop: AtomicBool,
    /// How often each worker has held the lock.
    holds: Vec<AtomicU64>,
    tokens: Mutex<Vec<u64>>,
    guards: Mutex<Vec<Option<Arc<Guard>>>>,
    overlaps: AtomicU64,
}

impl Contention {
    /// Starts this number of clients, each with two workers.
    pub(crate) async fn start(url: &str, clients: usize, ttl: Duration) -> Self {
        Self::start_each(&vec![url; clients], ttl).await
    }

    /// As [`start`](Self::start), with one client of each URL.
    pub(crate) async fn start_each(urls: &[&str], ttl: Duration) -> Self {
        let count = urls.len() * 2;
        let shared = Arc::new(SharedState {
            holds: (0..count).map(|_| AtomicU64::new(0)).collect(),
            guards: Mutex::new((0..count).map(|_| None).collect()),
            ..SharedState::default()
        });
        let mut all = Vec::new();
        let mut workers = Vec::new();
        for (index, url) in urls.iter().enumerate() {
            let client = client(url, ttl).await;
            for half in 0..2 {
                let worker = work(client.clone(), Arc::clone(&shared), 2 * index + half);
                workers.push(tokio::spawn(worker));
            }
            all.push(client);
        }
        let monitor = tokio::spawn(monitor(Arc::clone(&shared)));
        let contention = Self {
            shared,
            clients: all,
            workers,
            monitor,
        };
        contention
            .wait_until_all_held("before the fault", 2, WAIT_LIMIT)
            .await;
        contention
    }

    /// Waits until every worker has held the lock this many times more.
    pub(crate) async fn wait_until_all_held(&self, when: &str, more: u64, within: Duration) {
        let now = || -> Vec<u64> {
            let holds = self.shared.holds.iter();
            holds.map(|holds| holds.load(Ordering::SeqCst)).collect()
        };
        let (before, deadline) = (now(), Instant::now() + within);
        loop {
            let after = now();
            if before
                .iter()
                .zip(&after)
                .all(|(before, after)| after - before >= more)
            {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{when}: not every worker has held the lock {more} times more within {within:?}: \
                 {before:?} became {after:?}"
            );
            sleep(millis(10)).await;
        }
    }

    /// How often the lock was held in total.
    pub(crate) fn holds(&self) -> u64 {
        let holds = self.shared.holds.iter();
        holds.map(|holds| holds.load(Ordering::SeqCst)).sum()
    }

    /// The declared takeover bound, plus the delay of a busy machine.
    pub(crate) fn time_limit(&self, ttl: Duration) -> Duration {
        self.clients[0].capabilities().takeover.of(ttl, ttl) + WAIT_LIMIT
    }

    /// Stops the workers and checks what happened against the contract.
    pub(crate) async fn finish(self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers {
            worker.await.unwrap();
        }
        self.monitor.await.unwrap();
        assert_eq!(
            self.shared.overlaps.load(Ordering::SeqCst),
            0,
            "X1: two guards were held at once"
        );
        let tokens = self.shared.tokens.lock().unwrap();
        for pair in tokens.windows(2) {
            assert!(pair[0] < pair[1], "T1: token {} after {}", pair[1], pair[0]);
        }
    }
}

async fn work(client: Client, shared: Arc<SharedState>, index: usize) {
    let lock = client.lock(LOCK).unwrap();
    while !shared.stop.load(Ordering::SeqCst) {
        let guard = match lock.acquire_within(millis(500)).await {
            Ok(acquisition) => acquisition.acquired(),
            Err(_) => {
                sleep(millis(20)).await;
                continue;
            }
        };
        let Some(guard) = guard else { continue };
        let guard = Arc::new(guard);
        if let Ok(token) = guard.check() {
            let mut tokens = shared.tokens.lock().unwrap();
            // Checked again under the mutex: the lock may have been lost between the grant and the
            // record of it.
            if guard.check().is_ok() {
                tokens.push(token.get());
            }
        }
        shared.guards.lock().unwrap()[index] = Some(Arc::clone(&guard));
        sleep(millis(10)).await;
        if guard.check().is_ok() {
            shared.holds[index].fetch_add(1, Ordering::SeqCst);
        }
        let _ = guard.release().await;
        shared.guards.lock().unwrap()[index] = None;
    }
}

async fn monitor(shared: Arc<SharedState>) {
    while !shared.stop.load(Ordering::SeqCst) {
        let held = {
            let guards = shared.guards.lock().unwrap();
            let held = |guard: &&Arc<Guard>| guard.check().is_ok();
            let first: Vec<_> = guards
                .iter()
                .flatten()
                .filter(held)
                .map(Arc::clone)
                .collect();
            // A guard that was released while the others were checked is no overlap.
            first.iter().filter(is_held).count()
        };
        if held > 1 {
            shared.overlaps.fetch_add(1, Ordering::SeqCst);
        }
        sleep(millis(1)).await;
    }
}

fn is_held(guard: &&Arc<Guard>) -> bool {
    guard.check().is_ok()
}
