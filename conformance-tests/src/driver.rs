//! A client without the core: it sends single requests to the driver and collects the driver's events.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tenure_core::{
    backend::{Backend, BackendEvent, Connect, Context, EventHandler, EventSink, RenewalAnswers},
    clock::{Clock, Instant, SystemClock},
    error::Error,
    id::{AttemptId, ClientId},
    mode::Mode,
    name::{LockName, Namespace},
    request::{
        Downgrade, Downgraded, Enqueue, Enqueued, Grant, LockState, Owner, Remove, Removed,
        Renewal, Renewed,
    },
    token::FencingToken,
};
use tokio::sync::{Notify, futures::Notified};

use crate::{
    outcome::{Failure, Stop},
    stall_detector,
};

/// The interval between two renewals of a waiter.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(20);

/// The events of the driver.
#[derive(Default)]
struct Inbox {
    events: Mutex<Vec<BackendEvent>>,
    arrived: Notify,
}

impl EventHandler for Inbox {
    fn handle(&self, event: BackendEvent) {
        let mut events = lock(&self.events);
        events.push(event);
        self.arrived.notify_waiters();
    }
}

/// A connected driver.
pub(crate) struct Driver {
    backend: Arc<dyn Backend>,
    inbox: Arc<Inbox>,
    clock: Arc<dyn Clock>,
}

impl Driver {
    pub(crate) async fn connect(
        connect: &dyn Connect,
        namespace: Namespace,
        token_floor: FencingToken,
    ) -> Result<Self, Error> {
        let inbox: Arc<Inbox> = Arc::default();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let handler: Arc<dyn EventHandler> = Arc::<Inbox>::clone(&inbox);
        let context = Context::new(
            ClientId::random()?,
            EventSink::new(Arc::downgrade(&handler)),
            Arc::clone(&clock),
        )
        .with_namespace(namespace)
        .with_token_floor(token_floor);
        Ok(Self {
            backend: connect.connect(context).await?,
            inbox,
            clock,
        })
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) async fn enqueue(
        &self,
        name: &LockName,
        attempt: AttemptId,
        ttl: Duration,
        wait: bool,
    ) -> Result<Enqueued, Error> {
        self.enqueue_in(name, attempt, ttl, wait, Mode::Exclusive)
            .await
    }

    pub(crate) async fn enqueue_in(
        &self,
        name: &LockName,
        attempt: AttemptId,
        ttl: Duration,
        wait: bool,
        mode: Mode,
    ) -> Result<Enqueued, Error> {
        let owner = Owner::new("conformance", "host", std::process::id());
        let request = Enqueue::new(name.clone(), attempt, owner, ttl, wait).with_mode(mode);
        self.timed(self.backend.enqueue(request)).await
    }

    /// Acquires a free lock.
    pub(crate) async fn hold(&self, name: &LockName, ttl: Duration) -> Result<Grant, Stop> {
        self.hold_in(name, ttl, Mode::Exclusive).await
    }

    /// Acquires a lock that admits the mode.
    pub(crate) async fn hold_in(
        &self,
        name: &LockName,
        ttl: Duration,
        mode: Mode,
    ) -> Result<Grant, Stop> {
        let attempt = AttemptId::random()?;
        match self.enqueue_in(name, attempt, ttl, false, mode).await? {
            Enqueued::Granted(grant) => Ok(grant),
            other => {
                Err(Failure::new(None, format!("a free lock was not granted: {other:?}")).into())
            }
        }
    }

    /// Enters the queue of a taken lock.
    pub(crate) async fn wait_for(&self, name: &LockName, ttl: Duration) -> Result<AttemptId, Stop> {
        self.wait_in(name, ttl, Mode::Exclusive).await
    }

    /// Enters the queue of a lock that does not admit the mode.
    pub(crate) async fn wait_in(
        &self,
        name: &LockName,
        ttl: Duration,
        mode: Mode,
    ) -> Result<AttemptId, Stop> {
        let attempt = AttemptId::random()?;
        match self.enqueue_in(name, attempt, ttl, true, mode).await? {
            Enqueued::Waiting(_) => Ok(attempt),
            other => Err(Failure::new(
                None,
                format!("an attempt on a taken lock did not enter the queue: {other:?}"),
            )
            .into()),
        }
    }

    /// Tries a lock once; returns `None` if it is taken.
    pub(crate) async fn try_hold(
        &self,
        name: &LockName,
        ttl: Duration,
    ) -> Result<Option<Grant>, Stop> {
        match self.enqueue(name, AttemptId::random()?, ttl, false).await? {
            Enqueued::Granted(grant) => Ok(Some(grant)),
            Enqueued::Busy(_) => Ok(None),
            other => Err(Failure::new(
                Some("A5"),
                format!("a try must be granted or busy, but was {other:?}"),
            )
            .into()),
        }
    }

    pub(crate) async fn renew(
        &self,
        name: &LockName,
        attempt: AttemptId,
        ttl: Duration,
        token: Option<FencingToken>,
    ) -> Result<Renewed, Stop> {
        self.renew_in(name, attempt, ttl, token, Mode::Exclusive)
            .await
    }

    pub(crate) async fn renew_in(
        &self,
        name: &LockName,
        attempt: AttemptId,
        ttl: Duration,
        token: Option<FencingToken>,
        mode: Mode,
    ) -> Result<Renewed, Stop> {
        let entries = vec![Renewal::new(name.clone(), attempt, ttl, token).with_mode(mode)];
        let sent = Arc::new(Mutex::new(Vec::new()));
        let answers = RenewalAnswers::new({
            let sent = Arc::clone(&sent);
            move |index, answer| lock(&sent).push((index, answer))
        });
        self.timed(self.backend.renew(entries, answers)).await;
        let mut sent = std::mem::take(&mut *lock(&sent));
        match (sent.pop(), sent.is_empty()) {
            (Some((0, Renewed::Unknown(error))), true) => Err(error.into()),
            (Some((0, answer)), true) => Ok(answer),
            (_, _) => Err(Failure::new(
                Some("K4"),
                "the renewal of one entry had not exactly one answer",
            )
            .into()),
        }
    }

    pub(crate) async fn downgrade(
        &self,
        name: &LockName,
        grant: &Grant,
        ttl: Duration,
    ) -> Result<Downgraded, Error> {
        let request = Downgrade::new(name.clone(), grant.attempt, ttl, grant.token);
        self.timed(self.backend.downgrade(request)).await
    }

    pub(crate) async fn remove(
        &self,
        name: &LockName,
        attempt: AttemptId,
        ttl: Duration,
    ) -> Result<Removed, Error> {
        let request = Remove::new(name.clone(), attempt, ttl, true);
        self.timed(self.backend.remove(request)).await
    }

    pub(crate) async fn inspect(&self, name: &LockName) -> Result<LockState, Error> {
        self.timed(self.backend.inspect(name)).await
    }

    /// Records the duration of a request. No such request waits for anything but the store.
    async fn timed<T>(&self, request: impl Future<Output = T> + Send) -> T {
        let asked = self.now();
        let answer = request.await;
        stall_detector::record_request(asked);
        answer
    }

    /// Returns the grant of this attempt if the driver has reported it.
    pub(crate) fn pushed(&self, attempt: AttemptId) -> Option<Grant> {
        let events = lock(&self.inbox.events);
        events.iter().find_map(|event| match event {
            BackendEvent::Granted(grant) if grant.attempt == attempt => Some(grant.clone()),
            _ => None,
        })
    }

    /// Returns the reported grant of this attempt, or else a future that completes with the next event
    /// after this call.
    fn pushed_or_arrival(&self, attempt: AttemptId) -> Result<Grant, Pin<Box<Notified<'_>>>> {
        let mut arrived = Box::pin(self.inbox.arrived.notified());
        arrived.as_mut().enable();
        self.pushed(attempt).ok_or(arrived)
    }

    /// Waits for the message that this attempt holds the lock, without sending a request.
    pub(crate) async fn await_push(&self, attempt: AttemptId, within: Duration) -> Option<Grant> {
        let arrival = async {
            loop {
                match self.pushed_or_arrival(attempt) {
                    Ok(grant) => return grant,
                    Err(arrival) => arrival.await,
                }
            }
        };
        tokio::time::timeout(within, arrival).await.ok()
    }

    /// Waits for the grant of this attempt, and sends a request only after a [`BackendEvent::Recheck`]: the
    /// messages of a store may contain no more than that something has changed.
    pub(crate) async fn await_notice(
        &self,
        name: &LockName,
        attempt: AttemptId,
        ttl: Duration,
        within: Duration,
    ) -> Result<Option<Grant>, Stop> {
        let deadline = self.now() + within;
        let mut seen = 0;
        loop {
            let left = deadline.since(self.now());
            let arrived = match self.pushed_or_arrival(attempt) {
                Ok(grant) => return Ok(Some(grant)),
                Err(arrival) => arrival,
            };
            let rechecks = self.rechecks(attempt);
            if rechecks > seen {
                seen = rechecks;
                if let Renewed::Granted(grant) = self.renew(name, attempt, ttl, None).await? {
                    return Ok(Some(grant));
                }
            } else if left.is_zero() {
                return Ok(None);
            } else {
                let _ = tokio::time::timeout(left, arrived).await;
            }
        }
    }

    /// Returns the number of rechecks that the driver has requested for this attempt.
    fn rechecks(&self, attempt: AttemptId) -> usize {
        let events = lock(&self.inbox.events);
        let is_recheck = |event: &&BackendEvent| matches!(event, BackendEvent::Recheck { attempt: of } if *of == attempt);
        events.iter().filter(is_recheck).count()
    }

    /// Waits for the grant of this attempt with frequent renewals; returns `None` if the time is up.
    pub(crate) async fn await_grant(
        &self,
        name: &LockName,
        attempt: AttemptId,
        ttl: Duration,
        within: Duration,
    ) -> Result<Option<Grant>, Stop> {
        let deadline = self.now() + within;
        loop {
            match self.renew(name, attempt, ttl, None).await? {
                Renewed::Granted(grant) => return Ok(Some(grant)),
                Renewed::Waiting(_) => {}
                other => {
                    return Err(Failure::new(
                        Some("W5"),
                        format!("a waiter that renews in time must keep its position: {other:?}"),
                    )
                    .into());
                }
            }
            let left = deadline.since(self.now());
            if left.is_zero() {
                return Ok(None);
            }
            tokio::time::sleep(RENEWAL_INTERVAL.min(left)).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
