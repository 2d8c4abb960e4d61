//! A memory store whose driver delays, refuses or withholds answers.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tenure_core::{
    backend::{Backend, BackendInfo, Connect, Context, RenewalAnswers},
    capability::{Capabilities, TtlRange, TtlScope},
    error::{Error, ErrorKind},
    memory::MemoryStore,
    name::LockName,
    request::{
        Enqueue, Enqueued, Evicted, List, LockState, Page, Remove, Removed, Renewal, Renewed,
    },
    token::FencingToken,
};
use tokio::time::sleep;

#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Enqueues and removals of locks whose names begin with this are never answered.
    pub(crate) silent: Option<&'static str>,
    /// How late the answer to an enqueue is.
    pub(crate) enqueue_delay: Duration,
    /// The number of enqueues that are answered with "gone" first.
    pub(crate) gone: Arc<AtomicU32>,
    /// The number of enqueues that cannot be sent.
    pub(crate) unreachable: Arc<AtomicU32>,
    /// Whether reports are rejected with `PermissionDenied`.
    pub(crate) forbidden: Arc<AtomicBool>,
    /// The time that a renewal takes before its last request.
    pub(crate) renewal_step: Duration,
    /// How late the answer to a removal is.
    pub(crate) removal_delay: Duration,
    /// The answers to inspections wait while a test keeps this locked.
    pub(crate) inspections: Arc<tokio::sync::Mutex<()>>,
    pub(crate) pooled: bool,
    /// Whether the store says that it is on this machine.
    pub(crate) local: bool,
    /// The number of enqueues that were sent.
    pub(crate) enqueues: Arc<AtomicU32>,
    /// The names of the locks of the removals that were sent.
    pub(crate) removes: Arc<Mutex<Vec<String>>>,
    /// The steps of renewals and removals, in order.
    pub(crate) log: Arc<Mutex<Vec<&'static str>>>,
}

impl Faults {
    fn note(&self, step: &'static str) {
        self.log.lock().unwrap().push(step);
    }

    async fn reach(&self, name: &LockName) {
        if self
            .silent
            .is_some_and(|silent| name.as_str().starts_with(silent))
        {
            std::future::pending::<()>().await;
        }
    }
}

/// Counts down; `false` once the count is zero.
fn take_one(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    })
    .is_ok()
}

#[derive(Debug, Clone)]
pub(crate) struct FaultyStore(pub(crate) MemoryStore, pub(crate) Faults);

#[derive(Debug)]
struct FaultyBackend(Arc<dyn Backend>, Faults);

#[async_trait]
impl Connect for FaultyStore {
    fn info(&self) -> BackendInfo {
        let info = Connect::info(&self.0);
        if self.1.local {
            return info.without_network();
        }
        info
    }
    async fn connect(&self, context: Context) -> Result<Arc<dyn Backend>, Error> {
        let inner = self.0.connect(context).await?;
        Ok(Arc::new(FaultyBackend(inner, self.1.clone())))
    }
}

#[async_trait]
impl Backend for FaultyBackend {
    fn info(&self) -> BackendInfo {
        self.0.info()
    }
    async fn capabilities(&self) -> Result<Capabilities, Error> {
        let mut capabilities = self.0.capabilities().await?;
        if self.1.pooled {
            let ttl = capabilities.ttl;
            capabilities.ttl = TtlRange::new(ttl.min, ttl.max, ttl.granularity, TtlScope::Pooled);
        }
        Ok(capabilities)
    }
    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        self.1.reach(&request.name).await;
        if take_one(&self.1.unreachable) {
            return Err(Error::new(ErrorKind::Unavailable, "acquiring"));
        }
        self.1.enqueues.fetch_add(1, Ordering::SeqCst);
        if take_one(&self.1.gone) {
            return Ok(Enqueued::Gone);
        }
        let answer = self.0.enqueue(request).await;
        if !self.1.enqueue_delay.is_zero() {
            sleep(self.1.enqueue_delay).await;
        }
        answer
    }
    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        if self.1.forbidden.load(Ordering::SeqCst) {
            let error = Error::new(ErrorKind::PermissionDenied, "renewing");
            for index in 0..entries.len() {
                answers.send(index, Renewed::Unknown(error.clone()));
            }
            return;
        }
        self.1.note("renewal begins");
        if !self.1.renewal_step.is_zero() {
            sleep(self.1.renewal_step).await;
        }
        if (0..entries.len()).any(|index| answers.is_wanted(index)) {
            self.1.note("renewal is sent");
            self.0.renew(entries, answers).await;
        }
    }
    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        self.1.reach(&request.name).await;
        self.1.note("removal is sent");
        let name = request.name.to_string();
        self.1.removes.lock().unwrap().push(name);
        let answer = self.0.remove(request).await;
        if !self.1.removal_delay.is_zero() {
            sleep(self.1.removal_delay).await;
        }
        answer
    }
    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        let answer = self.0.inspect(name).await;
        let _answers = self.1.inspections.lock().await;
        answer
    }
    async fn list(&self, request: List) -> Result<Page, Error> {
        self.0.list(request).await
    }
    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        self.0.evict(name, token).await
    }
    async fn close(&self) {
        self.0.close().await;
    }
}
