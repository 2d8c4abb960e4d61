//! The memory backend, which shows the cost of the core, beside the locks of tokio.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;

use crate::{
    implementation::{Failure, Implementation, Tenure},
    kinds::{PERMITS, Role, SharedLocks},
    store::Store,
};

/// Creates the store in this process.
pub(crate) async fn start() -> Result<Store, Failure> {
    let url = "memory:";
    let implementations: Vec<Arc<dyn Implementation>> = vec![
        Arc::new(TokioMutexes::default()),
        Arc::new(Tenure::connect(url).await?),
    ];
    Ok(Store::new(
        "memory of this process".to_owned(),
        url.to_owned(),
        implementations,
        Box::new(|| None),
        (),
    )
    .with_shared_locks(TokioShared::default()))
}

/// One `tokio::sync::Mutex` for each name, without tokens and deadlines. All clients share the mutexes.
#[derive(Clone, Default)]
struct TokioMutexes(Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>);

#[async_trait]
impl Implementation for TokioMutexes {
    fn name(&self) -> &'static str {
        "tokio Mutex"
    }

    fn waits(&self) -> bool {
        true
    }

    async fn acquire_and_release(
        &self,
        lock: &str,
        held: &(dyn Fn() + Sync),
    ) -> Result<(), Failure> {
        let mutex = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(lock.to_owned()).or_default())
        };
        let _guard = mutex.lock().await;
        held();
        Ok(())
    }

    async fn connect(&self, _: &str) -> Result<Option<Arc<dyn Implementation>>, Failure> {
        Ok(Some(Arc::new(self.clone())))
    }
}

/// A `tokio::sync::RwLock` and a `tokio::sync::Semaphore`, as all clients of a load use the same lock.
#[derive(Clone)]
struct TokioShared {
    lock: Arc<tokio::sync::RwLock<()>>,
    permits: Arc<tokio::sync::Semaphore>,
}

impl Default for TokioShared {
    fn default() -> Self {
        Self {
            lock: Arc::default(),
            permits: Arc::new(tokio::sync::Semaphore::new(PERMITS as usize)),
        }
    }
}

const TOKIO_SHARED: &str = "tokio RwLock, Semaphore";

#[async_trait]
impl SharedLocks for TokioShared {
    fn name(&self) -> &'static str {
        TOKIO_SHARED
    }

    async fn connect(&self, _: &str, role: Role) -> Result<Arc<dyn Implementation>, Failure> {
        let shared = self.clone();
        Ok(Arc::new(TokioClient { shared, role }))
    }
}

struct TokioClient {
    shared: TokioShared,
    role: Role,
}

#[async_trait]
impl Implementation for TokioClient {
    fn name(&self) -> &'static str {
        TOKIO_SHARED
    }

    fn waits(&self) -> bool {
        true
    }

    async fn acquire_and_release(&self, _: &str, held: &(dyn Fn() + Sync)) -> Result<(), Failure> {
        let TokioShared { lock, permits } = &self.shared;
        match self.role {
            Role::Reader => {
                let _guard = lock.read().await;
                held();
            }
            Role::Writer => {
                let _guard = lock.write().await;
                held();
            }
            Role::Permit => {
                let _permit = permits.acquire().await?;
                held();
            }
        }
        Ok(())
    }
}
