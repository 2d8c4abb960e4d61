//! A memory store on a clock that the test moves.

use std::{sync::Arc, time::Duration};

use tenure_core::{Client, backend::Connect, clock::ManualClock, memory::MemoryStore};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const TTL: Duration = Duration::from_secs(30);

pub(crate) struct Bench {
    pub(crate) clock: ManualClock,
    pub(crate) store: MemoryStore,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new();
        let store = MemoryStore::with_clock(Arc::new(clock.clone()));
        Self { clock, store }
    }

    pub(crate) async fn client(&self) -> Client {
        self.client_of(self.store.clone()).await
    }

    pub(crate) async fn client_of(&self, connect: impl Connect) -> Client {
        let builder = Client::builder(connect).clock(Arc::new(self.clock.clone()));
        builder.connect().await.unwrap()
    }

    /// Advances the clock in small steps, and runs all tasks after each.
    pub(crate) async fn pass(&self, span: Duration) {
        let step = Duration::from_millis(500);
        for _ in 0..span.as_millis() / step.as_millis() {
            self.clock.advance(step);
            settle().await;
        }
    }

    pub(crate) async fn is_held(&self, client: &Client) -> bool {
        client.inspect("a").await.unwrap().holder.is_some()
    }
}

/// Runs all tasks until they wait.
pub(crate) async fn settle() {
    for _ in 0..30 {
        tokio::task::yield_now().await;
    }
}
