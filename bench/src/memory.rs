//! The memory backend, which shows the cost of the core, beside a mutex of tokio.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;

use crate::{
    implementation::{Failure, Implementation, Tenure},
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
    ))
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
