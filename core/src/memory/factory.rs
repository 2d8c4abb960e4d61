//! The factory of the memory backend.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::MemoryStore;
use crate::{
    backend::Connect,
    error::{Error, ErrorKind},
    registry::Factory,
    settings::Settings,
};

/// The scheme `memory`, for experiments: `memory:NAME` is one store for each name and factory. Its
/// content is lost when the process ends.
#[derive(Debug, Default)]
pub struct MemoryFactory {
    stores: Mutex<BTreeMap<String, MemoryStore>>,
}

impl MemoryFactory {
    /// Creates a factory without stores.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Factory for MemoryFactory {
    fn schemes(&self) -> &[&'static str] {
        &["memory"]
    }

    fn summary(&self) -> &'static str {
        "within one process, for tests and for trying out: memory: or memory:NAME"
    }

    fn open(&self, settings: &Settings) -> Result<Arc<dyn Connect>, Error> {
        let url = &settings.url;
        if !url.hosts().is_empty() {
            return Err(Error::new(ErrorKind::Config, "opening a memory store")
                .with_backend("memory")
                .with_detail("a memory store has no servers; write `memory:` or `memory:NAME`"));
        }
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let store = stores.entry(url.path().to_owned()).or_default();
        Ok(Arc::new(store.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, settings::StoreUrl};

    async fn client(factory: &MemoryFactory, url: &str) -> Client {
        let settings = Settings::new(StoreUrl::parse(url).unwrap());
        let connect = factory.open(&settings).unwrap();
        Client::builder(connect).connect().await.unwrap()
    }

    #[tokio::test]
    async fn same_name_is_the_same_store() {
        let factory = MemoryFactory::new();
        let first = client(&factory, "memory:a").await;
        let guard = first.lock("x").unwrap().acquire().await.unwrap();
        let same = client(&factory, "memory:a").await.lock("x").unwrap();
        assert!(same.try_acquire().await.unwrap().acquired().is_none());
        let other = client(&factory, "memory:b").await.lock("x").unwrap();
        assert!(other.try_acquire().await.unwrap().acquired().is_some());
        drop(guard);
        let servers = Settings::new(StoreUrl::parse("memory://h").unwrap());
        assert!(factory.open(&servers).is_err());
    }
}
