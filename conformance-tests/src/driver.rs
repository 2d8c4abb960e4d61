//! A client without the core's keeper: it asks the driver for one thing at a time, and collects
//! what the driver reports.

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
    name::{LockName, Namespace},
    request::{Enqueue, Enqueued, Grant, LockState, Owner, Remove, Removed, Renewal, Renewed},
    token::FencingToken,
};
use tokio::sync::{Notify, futures::Notified};

use crate::{
    case::{Failure, Stop},
    stall_detector,
};

/// How often a waiter reports while a case watches it.
const REPORT_EVERY: Duration = Duration::from_millis(20);

/// What the driver has reported.
#[derive(Default)]
struct Inbox {
    events: Mutex<Vec<BackendEvent>>,
    arrived: Notify,
}

impl EventHandler for Inbox {
    fn handle(&self, event: BackendEvent) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
        self.arrived.notify_waiters();
    }
}

/// One connected driver.
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
        let owner = Owner::new("conformance", "host", std::process::id());
        let request = Enqueue::new(name.clone(), attempt, owner, ttl, wait);
        self.timed(self.backend.enqueue(request)).await
    }

    /// Takes a lock that is free.
    pub(crate) async fn hold(&self, name: &LockName, ttl: Duration) -> Result<Grant, Stop> {
        match self.enqueue(name, AttemptId::random()?, ttl, false).await? {
            Enqueued::Granted(grant) => Ok(grant),
            other => Err(Failure::new(
                None,
                format!("a lock that should be free was not granted: {other:?}"),
            )
            .into()),
        }
    }

    /// Joins the queue of a lock that is taken.
    pub(crate) async fn wait_for(&self, name: &LockName, ttl: Duration) -> Result<AttemptId, Stop> {
        let attempt = AttemptId::random()?;
        match self.enqueue(name, attempt, ttl, true).await? {
            Enqueued::Waiting(_) => Ok(attempt),
            other => Err(Failure::new(
                None,
                format!("an attempt at a taken lock was not put into the queue: {other:?}"),
            )
            .into()),
        }
    }

    /// Tries a lock once. `None` if it is taken.
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
                format!("a try must be granted or busy, it was {other:?}"),
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
        let entries = vec![Renewal::new(name.clone(), attempt, ttl, token)];
        let renewal = RenewalAnswers::collect(1, |answers| self.backend.renew(entries, answers));
        match self.timed(renewal).await.remove(0) {
            Renewed::Unknown(error) => Err(error.into()),
            answer => Ok(answer),
        }
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

    /// None of these requests waits for anything but the store.
    async fn timed<T>(&self, request: impl Future<Output = T> + Send) -> T {
        let asked = self.now();
        let answer = request.await;
        stall_detector::record_request(asked);
        answer
    }

    /// Whether the driver has reported that this attempt holds the lock.
    pub(crate) fn pushed(&self, attempt: AttemptId) -> Option<Grant> {
        let events = self
            .inbox
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        events.iter().find_map(|event| match event {
            BackendEvent::Granted(grant) if grant.attempt == attempt => Some(grant.clone()),
            _ => None,
        })
    }

    /// What has been reported of this attempt; if nothing has, what waits for the next event, none of
    /// which is missed from here on.
    fn pushed_or_arrival(&self, attempt: AttemptId) -> Result<Grant, Pin<Box<Notified<'_>>>> {
        let mut arrived = Box::pin(self.inbox.arrived.notified());
        arrived.as_mut().enable();
        self.pushed(attempt).ok_or(arrived)
    }

    /// Waits for a message that this attempt holds the lock, and asks nothing.
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

    /// Waits to be told of a turn, and asks only when the driver says that there is something to ask:
    /// a store may tell no more than that something has changed.
    pub(crate) async fn await_word(
        &self,
        name: &LockName,
        attempt: AttemptId,
        ttl: Duration,
        within: Duration,
    ) -> Result<Option<Grant>, Stop> {
        let deadline = self.now() + within;
        let mut looked = 0;
        loop {
            let left = deadline.since(self.now());
            let arrived = match self.pushed_or_arrival(attempt) {
                Ok(grant) => return Ok(Some(grant)),
                Err(arrival) => arrival,
            };
            let looks = self.looks(attempt);
            if looks > looked {
                looked = looks;
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

    /// How often the driver has said that there is something to ask about this attempt.
    fn looks(&self, attempt: AttemptId) -> usize {
        let events = self
            .inbox
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_look = |event: &&BackendEvent| matches!(event, BackendEvent::Recheck { attempt: of } if *of == attempt);
        events.iter().filter(is_look).count()
    }

    /// Waits for a turn, as a waiter does that reports often: by message or by the answer to a
    /// report. `None` if it did not come in that time.
    pub(crate) async fn await_turn(
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
                        format!("a waiter that reports in time must keep its place: {other:?}"),
                    )
                    .into());
                }
            }
            let left = deadline.since(self.now());
            if left.is_zero() {
                return Ok(None);
            }
            tokio::time::sleep(REPORT_EVERY.min(left)).await;
        }
    }
}
