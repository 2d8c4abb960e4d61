//! The context of a case: its environment, TTLs that the backend supports, and helpers.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tenure_core::{
    Client, ClientBuilder, Guard, Release,
    backend::Connect,
    capability::{Capabilities, TtlScope, WaitMode},
    clock::{Clock, Instant, SystemClock},
    name::{LockName, Namespace},
    token::FencingToken,
};

use crate::{
    driver::Driver,
    fault::Faulty,
    harness::Env,
    launcher::Launcher,
    outcome::{Failure, Need, Outcome, Stop},
    wrap::{Plan, Tap},
};

/// A TTL that expires within a case. It is long enough for a busy machine to keep its locks.
const SHORT: Duration = Duration::from_millis(500);
/// A TTL that is long enough for renewals to succeed on a busy machine.
const STEADY: Duration = Duration::from_secs(2);
/// A TTL that does not expire within a case.
const LONG: Duration = Duration::from_secs(30);
/// The time limit of the first connection of a client.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// The context of a case.
pub struct CaseContext {
    env: Arc<dyn Env>,
    capabilities: Capabilities,
    launcher: Option<Launcher>,
    clients: Mutex<Vec<Client>>,
}

impl fmt::Debug for CaseContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CaseContext")
    }
}

impl CaseContext {
    pub(crate) async fn new(env: Arc<dyn Env>, launcher: Option<Launcher>) -> Result<Self, Stop> {
        let probe =
            Driver::connect(&*env.connector(), env.namespace(), FencingToken::new(0)).await?;
        let capabilities = probe.backend().capabilities().await?;
        probe.backend().close().await;
        Ok(Self {
            env,
            capabilities,
            launcher,
            clients: Mutex::default(),
        })
    }

    pub(crate) fn env(&self) -> &Arc<dyn Env> {
        &self.env
    }

    pub(crate) const fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    pub(crate) fn launcher(&self) -> Option<&Launcher> {
        self.launcher.as_ref()
    }

    pub(crate) fn namespace(&self) -> Namespace {
        self.env.namespace()
    }

    /// Creates a lock name for this case; the environment separates it from the names of other cases.
    pub(crate) fn name(&self, text: &str) -> Result<LockName, Stop> {
        LockName::new(text)
            .map_err(|invalid| Failure::new(Some("N1"), format!("{text:?}: {invalid}")).into())
    }

    /// Returns the TTL nearest to `wanted` that the backend supports.
    pub(crate) fn possible_ttl(&self, wanted: Duration) -> Duration {
        let range = &self.capabilities.ttl;
        range.resolve(wanted, true).unwrap_or(range.max)
    }

    /// Returns a TTL that expires within a case.
    pub(crate) fn short(&self) -> Duration {
        self.possible_ttl(SHORT)
    }

    /// Returns a TTL for locks that are held by renewals.
    pub(crate) fn steady(&self) -> Duration {
        self.possible_ttl(STEADY)
    }

    /// Returns a TTL that does not expire within a case.
    pub(crate) fn long(&self) -> Duration {
        self.possible_ttl(LONG)
    }

    /// Returns the tolerance for upper bounds on a busy machine.
    pub(crate) const fn slack(&self) -> Duration {
        Duration::from_secs(3)
    }

    /// Returns the time after which the lock of a silent holder must have been granted again, counted
    /// from the holder's last proof.
    pub(crate) fn takeover(&self, holder: Duration, waiter: Duration) -> Duration {
        self.capabilities.takeover.of(holder, waiter) + self.slack()
    }

    pub(crate) fn now(&self) -> Instant {
        SystemClock.now()
    }

    pub(crate) async fn sleep_until(&self, moment: Instant) {
        SystemClock.sleep_until(moment).await;
    }

    /// Ignores the case unless the store sends messages.
    pub(crate) fn need_push(&self) -> Result<(), Stop> {
        match self.capabilities.wait {
            WaitMode::Push => Ok(()),
            _ => Err(Stop::Ignored(Need::Push)),
        }
    }

    /// Ignores the case unless the backend has shared locks.
    pub(crate) fn need_shared(&self) -> Result<(), Stop> {
        if self.capabilities.modes.shared {
            return Ok(());
        }
        Err(Stop::Ignored(Need::Shared))
    }

    /// Ignores the case unless the backend has permits.
    pub(crate) fn need_permits(&self) -> Result<(), Stop> {
        if self.capabilities.modes.permits {
            return Ok(());
        }
        Err(Stop::Ignored(Need::Permits))
    }

    /// Ignores the case unless the renewal of one lock can stop while its client lives.
    pub(crate) fn need_own_ttl(&self) -> Result<(), Stop> {
        match self.capabilities.ttl.scope {
            TtlScope::Lock => Ok(()),
            _ => Err(Stop::Ignored(Need::OwnTtl)),
        }
    }

    /// Deletes a lock's state manually.
    pub(crate) async fn delete_state(&self, name: &LockName) -> Result<(), Stop> {
        if self.env.delete_state(name).await? {
            Ok(())
        } else {
            Err(Stop::Ignored(Need::DeleteState))
        }
    }

    pub(crate) async fn driver(&self) -> Result<Driver, Stop> {
        self.driver_in(self.namespace(), 0).await
    }

    pub(crate) async fn driver_in(
        &self,
        namespace: Namespace,
        token_floor: u64,
    ) -> Result<Driver, Stop> {
        let floor = FencingToken::new(token_floor);
        Ok(Driver::connect(&*self.env.connector(), namespace, floor).await?)
    }

    /// Connects a client with a long TTL.
    pub(crate) async fn client(&self) -> Result<Client, Stop> {
        let ttl = self.long();
        self.client_with(|builder| builder.ttl(ttl)).await
    }

    pub(crate) async fn client_with(
        &self,
        set: impl FnOnce(ClientBuilder) -> ClientBuilder + Send,
    ) -> Result<Client, Stop> {
        self.client_on(self.env.connector(), set).await
    }

    /// Connects a client whose requests and messages pass through a plan.
    pub(crate) async fn client_through(
        &self,
        plan: &Plan,
        set: impl FnOnce(ClientBuilder) -> ClientBuilder + Send,
    ) -> Result<Client, Stop> {
        self.client_on(Arc::new(Tap::new(self.env.connector(), plan)), set)
            .await
    }

    /// Connects a client over a faulty connector. A request fails long before a TTL ends.
    pub(crate) async fn client_over(&self, faulty: &Faulty, ttl: Duration) -> Result<Client, Stop> {
        let limit = self.over_limit();
        self.client_on(faulty.connector(), |builder| {
            builder.ttl(ttl).request_timeout(limit)
        })
        .await
    }

    /// Returns the time-out of a request over a faulty connector.
    pub(crate) const fn over_limit(&self) -> Duration {
        Duration::from_millis(600)
    }

    /// Connects a client. On a machine that stands still, a connect can exceed the time-out of a request,
    /// and is tried again: the cases are about what comes after it.
    pub(crate) async fn client_on(
        &self,
        connect: Arc<dyn Connect>,
        set: impl FnOnce(ClientBuilder) -> ClientBuilder + Send,
    ) -> Result<Client, Stop> {
        let builder = set(Client::builder(connect).namespace(self.namespace()));
        let deadline = self.now() + CONNECT_TIMEOUT;
        let client = loop {
            match builder.clone().connect().await {
                Err(error) if error.is_retryable() && self.now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                connected => break connected?,
            }
        };
        self.clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(client.clone());
        Ok(client)
    }

    /// Repeats the check until it returns a value or the time is up.
    pub(crate) async fn eventually<F, T>(
        &self,
        within: Duration,
        mut check: impl FnMut() -> F + Send,
    ) -> Result<Option<T>, Stop>
    where
        F: Future<Output = Result<Option<T>, Stop>> + Send,
        T: Send,
    {
        let deadline = self.now() + within;
        loop {
            if let Some(seen) = check().await? {
                return Ok(Some(seen));
            }
            if self.now() >= deadline {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until `waiters` attempts wait for a lock.
    pub(crate) async fn until_waiting(
        &self,
        driver: &Driver,
        name: &LockName,
        waiters: usize,
    ) -> Result<(), Stop> {
        self.until_waiting_within(driver, name, waiters, self.slack())
            .await
    }

    /// Waits until `waiters` attempts wait for a lock, but not longer than `within`.
    pub(crate) async fn until_waiting_within(
        &self,
        driver: &Driver,
        name: &LockName,
        waiters: usize,
        within: Duration,
    ) -> Result<(), Stop> {
        let seen = self
            .eventually(within, || async {
                let state = driver.inspect(name).await?;
                Ok((state.queue.len() == waiters).then_some(()))
            })
            .await?;
        seen.ok_or_else(|| {
            let text = format!("{waiters} should wait for {:?}, and do not", name.as_str());
            Failure::new(Some("I1"), text).into()
        })
    }

    /// Fails unless the store shows neither holder nor waiter within the time.
    pub(crate) async fn until_idle(
        &self,
        driver: &Driver,
        name: &LockName,
        within: Duration,
        clause: &'static str,
    ) -> Result<(), Stop> {
        let mut last = None;
        let seen = self
            .eventually(within, || async {
                let state = driver.inspect(name).await?;
                Ok((state.holder.is_none() && state.queue.is_empty())
                    .then_some(())
                    .ok_or(state)
                    .ok())
            })
            .await?;
        if seen.is_none() {
            last = Some(driver.inspect(name).await?);
        }
        match last {
            None => Ok(()),
            Some(state) => {
                let text = format!("something stays behind: {state:?}");
                Err(Failure::new(Some(clause), text).into())
            }
        }
    }

    /// Closes the clients that the case left open.
    pub(crate) async fn finish(&self) {
        let clients = {
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *clients)
        };
        let mut closing = tokio::task::JoinSet::new();
        for client in clients {
            closing.spawn(async move {
                client.shutdown(Duration::from_millis(200)).await;
            });
        }
        while closing.join_next().await.is_some() {}
        self.env.finish().await;
    }
}

/// Releases a guard that must still be held.
pub(crate) async fn release(guard: &Guard) -> Outcome {
    match guard.release().await {
        Release::Released => Ok(()),
        outcome => {
            let text = format!(
                "releasing {:?}, which is held, gave {outcome:?}",
                guard.name()
            );
            Err(Failure::new(Some("R1"), text).into())
        }
    }
}
