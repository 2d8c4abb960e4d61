//! No store at all: what the way through the core costs, beside a mutex of the runtime.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use tenure_load::Locks;

use crate::contender::{Contender, Failure, Store, TTL, client};

/// The memory backend, and `tokio::sync::Mutex` found by its name.
pub(crate) async fn start() -> Result<Store, Failure> {
    let url = "memory:";
    let contenders: Vec<Arc<dyn Contender>> = vec![
        Arc::new(Mutexes::default()),
        Arc::new(Locks::new("tenure", client(url, TTL).await?)),
    ];
    Ok(Store::new(
        "memory of this process".to_owned(),
        url.to_owned(),
        contenders,
        Box::new(|| None),
        (),
    ))
}

/// Called by the same way as all others, and by name; without queue entries, tokens and deadlines.
#[derive(Default)]
struct Mutexes(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

#[async_trait]
impl Contender for Mutexes {
    fn name(&self) -> &'static str {
        "tokio Mutex"
    }

    fn waits(&self) -> bool {
        true
    }

    async fn turn(&self, lock: &str, held: &(dyn Fn() + Sync)) -> Result<(), Failure> {
        let mutex = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(lock.to_owned()).or_default())
        };
        let _guard = mutex.lock().await;
        held();
        Ok(())
    }
}
