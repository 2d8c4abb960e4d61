//! A client that runs on a thread of its own, so that its renewals do not depend on what the
//! program's threads do.

use std::{fmt, io, sync::Arc, thread, time::Duration};

use async_trait::async_trait;
use tokio::{
    runtime::{Builder, Handle},
    task::JoinHandle,
};

use super::{Client, ClientBuilder};
use crate::{
    backend::{Backend, BackendInfo, RenewalAnswers},
    capability::Capabilities,
    error::{Error, ErrorKind},
    name::LockName,
    request::{
        Downgrade, Downgraded, Enqueue, Enqueued, Evicted, List, LockState, Page, Remove, Removed,
        Renewal,
    },
    token::FencingToken,
};

/// Starts a thread that connects the client and passes it to `answer`. The thread ends after the
/// client, once the removals of its attempts are done.
///
/// # Errors
///
/// [`ErrorKind::Exhausted`] if there can be no further thread; then `answer` is not called.
pub(crate) fn start(
    builder: ClientBuilder,
    answer: impl FnOnce(Result<Client, Error>) + Send + 'static,
) -> Result<(), Error> {
    let scheme = builder.scheme();
    let failed = move |source: io::Error| {
        Error::new(ErrorKind::Exhausted, "connecting")
            .with_backend(scheme)
            .with_detail("the thread of the client cannot be started")
            .with_source(source)
    };
    let run = move || {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return answer(Err(failed(error))),
        };
        runtime.block_on(async move {
            match builder.connect_here().await {
                Ok((client, releaser)) => {
                    answer(Ok(client));
                    let _ = releaser.await;
                }
                Err(error) => answer(Err(error)),
            }
        });
        // A system call that hangs must not keep the thread.
        runtime.shutdown_background();
    };
    let thread = thread::Builder::new().name("tenure".to_owned());
    thread.spawn(run).map_err(failed)?;
    Ok(())
}

/// Runs the requests of a backend on the thread of its client, whichever thread waits for them: a
/// driver may start tasks and open connections in any of them.
pub(super) struct OnThread {
    inner: Arc<dyn Backend>,
    runtime: Handle,
}

impl OnThread {
    pub(super) fn new(inner: Arc<dyn Backend>) -> Self {
        Self {
            inner,
            runtime: Handle::current(),
        }
    }

    /// Runs a request there. Dropping the future drops the request.
    async fn run<T, F>(
        &self,
        operation: &'static str,
        request: impl FnOnce(Arc<dyn Backend>) -> F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let request = request(Arc::clone(&self.inner));
        let mut task = AbortOnDrop(self.runtime.spawn(request));
        (&mut task.0).await.unwrap_or_else(|source| {
            Err(Error::new(ErrorKind::OutcomeUnknown, operation)
                .with_backend(self.inner.info().scheme)
                .with_detail("the thread of the client has ended")
                .with_source(source))
        })
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for OnThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Backend for OnThread {
    fn info(&self) -> BackendInfo {
        self.inner.info()
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        let ask = |inner: Arc<dyn Backend>| async move { inner.capabilities().await };
        self.run("reading the capabilities", ask).await
    }

    async fn enqueue(&self, request: Enqueue) -> Result<Enqueued, Error> {
        let ask = |inner: Arc<dyn Backend>| async move { inner.enqueue(request).await };
        self.run("acquiring", ask).await
    }

    async fn renew(&self, entries: Vec<Renewal>, answers: RenewalAnswers) {
        let ask = |inner: Arc<dyn Backend>| async move {
            inner.renew(entries, answers).await;
            Ok(())
        };
        // An entry without an answer counts as unknown.
        let _ = self.run("renewing", ask).await;
    }

    async fn remove(&self, request: Remove) -> Result<Removed, Error> {
        let ask = |inner: Arc<dyn Backend>| async move { inner.remove(request).await };
        self.run("releasing", ask).await
    }

    async fn downgrade(&self, request: Downgrade) -> Result<Downgraded, Error> {
        let ask = |inner: Arc<dyn Backend>| async move { inner.downgrade(request).await };
        self.run("downgrading", ask).await
    }

    async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        let name = name.clone();
        let ask = |inner: Arc<dyn Backend>| async move { inner.inspect(&name).await };
        self.run("inspecting", ask).await
    }

    async fn list(&self, request: List) -> Result<Page, Error> {
        let ask = |inner: Arc<dyn Backend>| async move { inner.list(request).await };
        self.run("listing", ask).await
    }

    async fn evict(&self, name: &LockName, token: FencingToken) -> Result<Evicted, Error> {
        let name = name.clone();
        let ask = |inner: Arc<dyn Backend>| async move { inner.evict(&name, token).await };
        self.run("evicting", ask).await
    }

    async fn discard(&self, name: &LockName) -> Result<Option<Duration>, Error> {
        let name = name.clone();
        let ask = |inner: Arc<dyn Backend>| async move { inner.discard(&name).await };
        self.run("discarding", ask).await
    }

    async fn close(&self) {
        let ask = |inner: Arc<dyn Backend>| async move {
            inner.close().await;
            Ok(())
        };
        let _ = self.run("closing", ask).await;
    }
}
