//! A connector that records which locks its clients enqueue at, so that their states can be deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tenure_core::{
    backend::{Backend, BackendInfo, Connect, Context, RenewalAnswers},
    capability::Capabilities,
    error::Error,
    name::{LockName, Namespace},
    request::{Enqueue, Enqueued, Evicted, List, LockState, Page, Remove, Removed, Renewal},
    token::FencingToken,
};

/// The recorded names, by namespace.
pub(crate) type UsedNames = BTreeMap<Namespace, BTreeSet<LockName>>;

/// The connector. Clones record in one place.
#[derive(Clone, Debug)]
pub(crate) struct NameRecorder {
    inner: Arc<dyn Connect>,
    used: Arc<Mutex<UsedNames>>,
}

impl NameRecorder {
    pub(crate) fn new(inner: Arc<dyn Connect>) -> Self {
        let used = Arc::default();
        Self { inner, used }
    }

    /// Records a name.
    pub(crate) fn record(&self, namespace: &Namespace, name: &LockName) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let names = used.entry(namespace.clone()).or_default();
        names.insert(name.clone());
    }

    /// Returns the names recorded so far, and forgets them.
    pub(crate) fn take(&self) -> UsedNames {
        std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Connect for NameRecorder {
    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        let namespace = context.namespace.clone();
        let inner = self.inner.connect(context).await?;
        Ok(Arc::new(Recorded {
            inner,
            namespace,
            recorder: self.clone(),
        }))
    }
}

#[derive(Debug)]
struct Recorded {
    inner: Arc<dyn Backend>,
    namespace: Namespace,
    recorder: NameRecorder,
}

#[async_trait]
impl Backend for Recorded {
    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        self.inner.capabilities().await
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        self.recorder.record(&self.namespace, &request.name);
        self.inner.enqueue(request).await
    }

    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        self.inner.renew(entries, answers).await;
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        self.inner.remove(request).await
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        self.inner.inspect(name).await
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        self.inner.list(request).await
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        self.inner.evict(name, token).await
    }

    async fn discard(&self, name: &LockName) -> Result<Option<Duration>, Error> {
        self.inner.discard(name).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
