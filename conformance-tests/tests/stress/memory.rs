//! The run without faults, on a store that cannot fail: what accuses it accuses anything.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod storm;

use std::{sync::Arc, thread::sleep, time::Duration};

use tenure_core::{backend::Connect, memory::MemoryStore};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_backend_is_accused_of_nothing() {
    let store = MemoryStore::new();
    let connectors = (0..3)
        .map(|_| Arc::new(store.clone()) as Arc<dyn Connect>)
        .collect();
    let ttl = Duration::from_secs(2);
    storm::storm("stress-memory", connectors, ttl, |_| {
        assert!(storm::random_below(10) < 10);
        sleep(Duration::from_secs(3));
    })
    .await;
}
