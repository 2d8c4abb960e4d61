//! The decorator that executes a plan.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use tenure_core::{
    backend::{Backend, BackendInfo, Connect, Context, EventHandler, EventSink, RenewalAnswers},
    capability::Capabilities,
    error::{Error, ErrorKind},
    id::AttemptId,
    name::{LockName, Namespace},
    request::{
        Downgrade, Downgraded, Enqueue, Enqueued, Evicted, List, LockState, Page, Remove, Removed,
        Renewal, Renewed,
    },
    token::FencingToken,
};

use super::{Fate, Op, Plan};

/// A connector whose requests and messages pass through a plan.
#[derive(Clone, Debug)]
pub struct Tap {
    inner: Arc<dyn Connect>,
    plan: Plan,
}

impl Tap {
    /// Wraps a connector.
    #[must_use]
    pub fn new(inner: Arc<dyn Connect>, plan: &Plan) -> Self {
        Self {
            inner,
            plan: plan.clone(),
        }
    }
}

#[async_trait]
impl Connect for Tap {
    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    async fn connect(&self, mut context: Context) -> Result<Arc<dyn Backend>, Error> {
        let relay = self.plan.relay(context.events.clone());
        context.events = EventSink::new(Arc::downgrade(&relay));
        Ok(Arc::new(Tapped {
            namespace: context.namespace.clone(),
            inner: self.inner.connect(context).await?,
            plan: self.plan.clone(),
            _relay: relay,
        }))
    }
}

struct Tapped {
    namespace: Namespace,
    inner: Arc<dyn Backend>,
    plan: Plan,
    _relay: Arc<dyn EventHandler>,
}

impl fmt::Debug for Tapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Tapped {
    async fn pass<T>(
        &self,
        op: Op,
        attempts: Vec<AttemptId>,
        request: impl Future<Output = T> + Send,
    ) -> Result<T, Error> {
        let admitted = self.plan.admit(op, attempts);
        self.carry_out(admitted, request).await
    }

    async fn carry_out<T>(
        &self,
        (number, fate): (usize, Fate),
        request: impl Future<Output = T> + Send,
    ) -> Result<T, Error> {
        match fate {
            Fate::Hang => std::future::pending().await,
            Fate::Refuse => {
                let refused = Error::new(ErrorKind::Unavailable, "sending a request");
                return Err(refused.with_detail("the connection was refused"));
            }
            Fate::LoseRequest => return Err(unknown("the request was lost")),
            Fate::Delay { before, .. } => tokio::time::sleep(before).await,
            _ => {}
        }
        let answer = request.await;
        self.plan.answered(number);
        match fate {
            Fate::HangReply => std::future::pending().await,
            Fate::LoseReply => Err(unknown("the reply was lost")),
            Fate::Delay { after, .. } => {
                tokio::time::sleep(after).await;
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }
}

fn unknown(detail: &str) -> Error {
    Error::new(ErrorKind::OutcomeUnknown, "sending a request").with_detail(detail)
}

#[async_trait]
impl Backend for Tapped {
    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        Ok(self.plan.shown(self.inner.capabilities().await?))
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        self.plan.use_name(&self.namespace, &request.name);
        let attempts = vec![request.attempt];
        self.pass(Op::Enqueue, attempts, self.inner.enqueue(request))
            .await?
    }

    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        let attempts: Vec<_> = entries.iter().map(|entry| entry.attempt).collect();
        let count = attempts.len();
        let admitted = self.plan.admit(Op::Renew, attempts);
        if admitted.1 == Fate::Pass {
            // Each answer passes as soon as the driver sends it.
            let call = self.inner.renew(entries, answers);
            let _ = self.carry_out(admitted, call).await;
            return;
        }
        let call = RenewalAnswers::collect(count, |answers| self.inner.renew(entries, answers));
        let outcome = self.carry_out(admitted, call).await;
        let renewed = outcome.unwrap_or_else(|error| vec![Renewed::Unknown(error); count]);
        for (index, answer) in renewed.into_iter().enumerate() {
            answers.send(index, answer);
        }
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        let attempts = vec![request.attempt];
        self.pass(Op::Remove, attempts, self.inner.remove(request))
            .await?
    }

    async fn downgrade(&self, request: Downgrade) -> Result<Downgraded, Error> {
        let attempts = vec![request.attempt];
        self.pass(Op::Downgrade, attempts, self.inner.downgrade(request))
            .await?
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        self.pass(Op::Inspect, Vec::new(), self.inner.inspect(name))
            .await?
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        self.pass(Op::Inspect, Vec::new(), self.inner.list(request))
            .await?
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        self.pass(Op::Inspect, Vec::new(), self.inner.evict(name, token))
            .await?
    }

    async fn discard(&self, name: &LockName) -> Result<Option<Duration>, Error> {
        self.pass(Op::Inspect, Vec::new(), self.inner.discard(name))
            .await?
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
