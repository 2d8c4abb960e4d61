//! The releaser: one task per client that removes attempts from the store for callers that cannot
//! wait: dropped guards, cancelled acquires and lost grants.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    runtime::Builder,
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
};

use super::{attempt::Attempt, pending_releases::PendingReleases, timeout::timeout_at};
use crate::{
    backend::Backend,
    clock::{Clock, Instant},
    error::{Error, ErrorKind},
    guard::Guard,
    loss::LossReason,
    request::{Remove, Removed},
    telemetry,
};

/// The outcome of a release (clause R1).
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use]
pub enum Release {
    /// The grant was already gone, for this reason.
    NotHeld(LossReason),
    /// The store has acknowledged the release.
    Released,
    /// The store gave no answer. The client repeats the removal in the background; the lock is free
    /// after its TTL at the latest.
    Unknown(Error),
}

impl Release {
    /// Returns the name of the outcome in metrics and spans.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::NotHeld(_) => "not_held",
            Self::Released => "released",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// A command for the releaser.
#[derive(Debug)]
pub(crate) enum Command {
    /// Remove an attempt.
    Remove(Removal),
    /// Release a guard when its minimum hold is over.
    Release(Guard),
    /// Signal when all earlier commands are done.
    Drain(oneshot::Sender<()>),
}

/// The removal of an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Removal {
    pub(crate) request: Remove,
    /// The removal must not start before this moment.
    pub(crate) not_before: Option<Instant>,
    /// The attempt whose renewals must have ended before the removal is sent.
    pub(crate) attempt: Arc<Attempt>,
    /// How long to wait for those renewals; `None`: the request time-out.
    pub(crate) idle_within: Option<Duration>,
}

impl Removal {
    /// Creates a removal that may start now. `answered` is whether an enqueue of the attempt was
    /// answered.
    pub(crate) fn new(attempt: &Arc<Attempt>, answered: bool) -> Self {
        let outcome_known = answered && !attempt.has_unanswered_enqueue();
        // A grant can have a longer TTL than the requested one.
        let granted = attempt.grant().map(|(_, lease)| lease.ttl());
        let ttl = granted.unwrap_or(attempt.ttl);
        Self {
            request: Remove::new(attempt.name.clone(), attempt.id, ttl, outcome_known),
            not_before: None,
            attempt: Arc::clone(attempt),
            idle_within: None,
        }
    }

    /// Returns whether the minimum hold of the grant is not over.
    fn is_held(&self, now: Instant) -> bool {
        self.attempt.held_until() > now
    }
}

/// Pause before a failed removal is retried. It doubles with each failure, up to one second.
const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(20);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Maximum number of removals that are sent at the same time.
const MAX_CONCURRENT_REMOVALS: usize = 64;
/// How long an unanswered removal counts towards that number. A part of the store that is silent,
/// such as one node of a cluster, must not delay the removals at the other parts.
const COUNTED_FOR: Duration = Duration::from_millis(100);
/// How long the drop of a guard waits for a store on this machine. A removal there takes less than a
/// millisecond, unless the machine is busy.
const DROP_TIMEOUT: Duration = Duration::from_millis(100);
/// How long later drops leave their removals to the background if one has waited in vain, so that a
/// caller who drops many guards does not wait for each.
const DROP_PAUSE: Duration = Duration::from_secs(1);
/// Delay before a removal that the store has refused is retried, in a pooled session: the
/// permission may be granted again.
const REFUSED_RETRY_DELAY: Duration = Duration::from_secs(2);

/// The outcome of a removal.
#[derive(Debug)]
pub(crate) enum RemovalOutcome {
    /// The store has answered.
    Done,
    /// The entry expires by itself.
    LeftToExpire,
    /// The store refuses the removal, and the entry does not expire as long as this client lives.
    Refused(Removal),
}

/// Executes removals.
#[derive(Clone, Debug)]
pub(crate) struct Releaser {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) request_timeout: Duration,
    /// Whether an entry that is not removed stays as long as this client lives, so that its TTL
    /// does not end it.
    pub(crate) pooled: bool,
    pub(crate) releases: Arc<PendingReleases>,
    permits: Arc<Semaphore>,
    /// From when on the drop of a guard may wait again.
    drops_wait_from: Arc<Mutex<Instant>>,
}

impl Releaser {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
        request_timeout: Duration,
        pooled: bool,
    ) -> Self {
        Self {
            backend,
            clock,
            request_timeout,
            pooled,
            releases: Arc::default(),
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_REMOVALS)),
            drops_wait_from: Arc::new(Mutex::new(Instant::ORIGIN)),
        }
    }

    /// Removes an attempt while the caller waits, which may be a task of any runtime or none, and
    /// returns whether it is removed. A thread runs the removal, because the caller's runtime may
    /// have no other thread, and may end right afterwards.
    pub(crate) fn remove_at_once(&self, attempt: &Arc<Attempt>) -> bool {
        let drops_wait_from = || {
            let from = self.drops_wait_from.lock();
            from.unwrap_or_else(PoisonError::into_inner)
        };
        if self.clock.now() < *drops_wait_from() {
            return false;
        }
        let (releaser, removal) = (self.clone(), Removal::new(attempt, true));
        let (done, removed) = std::sync::mpsc::channel();
        let remove = move || {
            let Ok(runtime) = Builder::new_current_thread().enable_all().build() else {
                return;
            };
            let limit = releaser.clock.now() + DROP_TIMEOUT;
            let removed = runtime.block_on(async {
                let idle = removal.attempt.wait_idle(&*releaser.clock, limit).await;
                let left = limit.since(releaser.clock.now());
                idle && releaser.try_remove(&removal, left).await.0.is_ok()
            });
            let _ = done.send(removed);
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("tenure-release".to_owned());
        let removed =
            thread.spawn(remove).is_ok() && removed.recv_timeout(DROP_TIMEOUT) == Ok(true);
        if !removed {
            *drops_wait_from() = self.clock.now() + DROP_PAUSE;
        }
        removed
    }

    /// Runs until the client is gone and all removals are done, then closes the backend.
    pub(super) async fn run(self, mut work: Work) {
        // A drain does not wait for delayed removals.
        let mut delayed = JoinSet::new();
        // The removals of grants whose minimum hold is not over, and the releases of such guards.
        let (mut kept, mut held) = (JoinSet::new(), JoinSet::new());
        let mut drains = Vec::new();
        loop {
            if work.removals.is_empty() {
                for drain in drains.drain(..) {
                    let _: Result<(), ()> = oneshot::Sender::send(drain, ());
                }
            }
            tokio::select! {
                biased;
                command = work.commands.recv() => match command {
                    Some(Command::Remove(removal)) if removal.is_held(self.clock.now()) => {
                        kept.spawn(self.clone().delay(removal));
                    }
                    Some(Command::Remove(removal)) if removal.not_before.is_some() => {
                        delayed.spawn(self.clone().delay(removal));
                    }
                    Some(Command::Remove(removal)) => {
                        work.removals.spawn(self.clone().remove_with_retry(removal));
                    }
                    Some(Command::Release(guard)) => {
                        held.spawn(async move { guard.release().await });
                    }
                    Some(Command::Drain(done)) => drains.push(done),
                    None => break,
                },
                Some(done) = work.removals.join_next() => {
                    if let Ok(RemovalOutcome::Refused(mut removal)) = done {
                        removal.not_before = Some(self.clock.now() + REFUSED_RETRY_DELAY);
                        delayed.spawn(self.clone().delay(removal));
                    }
                }
                Some(_) = held.join_next() => {}
                Some(due) = kept.join_next() => {
                    if let Ok(removal) = due {
                        work.removals.spawn(self.clone().remove_with_retry(removal));
                    }
                }
                Some(due) = delayed.join_next() => {
                    if let Ok(removal) = due {
                        work.removals.spawn(self.clone().remove_with_retry(removal));
                    }
                }
            }
        }
        // A client that is gone keeps what has a minimum hold (H1).
        while let Some(due) = kept.join_next().await {
            if let Ok(removal) = due {
                work.removals.spawn(self.clone().remove_with_retry(removal));
            }
        }
        // Closing the backend ends its sessions, and with them the entries that could not be
        // removed.
        let within = self.request_timeout.saturating_mul(2);
        let limit = self.clock.now() + within;
        let rest = async { while work.removals.join_next().await.is_some() {} };
        let _ = timeout_at(&*self.clock, limit, rest).await;
        // A driver that hangs must not keep the client's thread.
        let limit = self.clock.now() + within;
        let _ = timeout_at(&*self.clock, limit, self.backend.close()).await;
    }

    async fn delay(self, removal: Removal) -> Removal {
        let begin = removal.not_before.unwrap_or(Instant::ORIGIN);
        self.clock.sleep_until(begin).await;
        removal
    }

    /// Retries a removal until it is answered or has become pointless: after one TTL the entry has
    /// expired by itself, unless it belongs to a pooled session.
    async fn remove_with_retry(self, removal: Removal) -> RemovalOutcome {
        let attempt = removal.request.attempt;
        let outcome = self.try_until_answered(removal).await;
        match outcome {
            RemovalOutcome::Done => self.releases.end(attempt),
            RemovalOutcome::LeftToExpire => self.releases.give_up(attempt),
            RemovalOutcome::Refused(_) => {}
        }
        outcome
    }

    async fn try_until_answered(&self, removal: Removal) -> RemovalOutcome {
        let idle_within = removal.idle_within.unwrap_or(self.request_timeout);
        let limit = self.clock.now() + idle_within;
        removal.attempt.wait_idle(&*self.clock, limit).await;
        let until = if self.pooled {
            Instant::FAR_FUTURE
        } else {
            self.clock.now() + removal.request.ttl.max(self.request_timeout)
        };
        let mut backoff = RETRY_BACKOFF_MIN;
        loop {
            match self.try_with_permit(&removal).await {
                Ok(_) => return RemovalOutcome::Done,
                Err(error) if self.pooled && !error.is_retryable() => {
                    tracing::warn!(
                        lock.name = %removal.attempt.name.as_str().escape_debug(),
                        lock.attempt = %removal.attempt.id,
                        %error,
                        "could not remove an attempt; it stays in the queue until this succeeds or \
                         this client ends",
                    );
                    return RemovalOutcome::Refused(removal);
                }
                Err(error) => {
                    let again = self.clock.now() + backoff;
                    if !error.is_retryable() || again >= until {
                        telemetry::orphaned(self.backend.info().scheme);
                        tracing::warn!(
                            lock.name = %removal.attempt.name.as_str().escape_debug(),
                            lock.attempt = %removal.attempt.id,
                            %error,
                            "could not remove an attempt; the store lets it lapse within its TTL",
                        );
                        return RemovalOutcome::LeftToExpire;
                    }
                    self.clock.sleep_until(again).await;
                    backoff = (backoff * 2).min(RETRY_BACKOFF_MAX);
                }
            }
        }
    }

    /// Tries a removal once, beside a limited number of others.
    async fn try_with_permit(&self, removal: &Removal) -> Answer {
        // The semaphore is never closed.
        let permit = self.permits.acquire().await;
        let mut call = pin!(self.try_remove(removal, self.request_timeout));
        let limit = self.clock.now() + COUNTED_FOR;
        let answer = timeout_at(&*self.clock, limit, call.as_mut()).await;
        drop(permit);
        match answer {
            Some((answer, _)) => answer,
            None => call.await.0,
        }
    }

    /// Tries a removal within `limit`. If no answer comes in a third of it, the request or its answer
    /// may be lost, or the network may be slow: a second request is sent, and the first one may still
    /// be answered. Returns the answer that counts, and whether the other request was not answered, so
    /// that it may be what removed the attempt.
    pub(crate) async fn try_remove(&self, removal: &Removal, limit: Duration) -> (Answer, bool) {
        let begun = self.clock.now();
        let mut first = pin!(self.send(removal, begun + limit));
        match timeout_at(&*self.clock, begun + limit / 3, first.as_mut()).await {
            Some(answer) => (answer, false),
            None => first_removal(first, pin!(self.send(removal, begun + limit))).await,
        }
    }

    async fn send(&self, removal: &Removal, limit: Instant) -> Answer {
        let call = self.backend.remove(removal.request.clone());
        match timeout_at(&*self.clock, limit, call).await {
            Some(answer) => answer,
            None => Err(Error::new(ErrorKind::OutcomeUnknown, "releasing")
                .with_backend(self.backend.info().scheme)
                .with_lock(removal.request.name.clone())
                .with_detail("the store gave no answer in time")),
        }
    }
}

/// The removals that are queued and under way. Logs if they are dropped, as when a runtime ends.
pub(super) struct Work {
    commands: mpsc::UnboundedReceiver<Command>,
    removals: JoinSet<RemovalOutcome>,
}

impl Work {
    pub(super) fn new(commands: mpsc::UnboundedReceiver<Command>) -> Self {
        Self {
            commands,
            removals: JoinSet::new(),
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // A guard that is dropped here with the rest of its minimum hold must not be sent here again.
        self.commands.close();
        let queued = std::iter::from_fn(|| self.commands.try_recv().ok());
        let queued = queued.filter(|command| !matches!(command, Command::Drain(_)));
        let count = queued.count() + self.removals.len();
        if count > 0 {
            tracing::warn!(
                count,
                "a client ended while locks were being released; they stay taken for up to their TTL \
                 (use `ClientBuilder::scope`, or shut the client down before the program ends)",
            );
        }
    }
}

type Answer = Result<Removed, Error>;

/// Waits for the answers to two removals, of which one may find nothing because it came after the
/// other. Returns the answer that counts, and whether the other removal was not answered.
async fn first_removal(
    mut first: Pin<&mut impl Future<Output = Answer>>,
    mut second: Pin<&mut impl Future<Output = Answer>>,
) -> (Answer, bool) {
    let found = |answer: &Answer| matches!(answer, Ok(removed) if *removed != Removed::Absent);
    let answers = tokio::select! {
        biased;
        answer = first.as_mut() => {
            if found(&answer) {
                return (answer, false);
            }
            (answer, second.await)
        }
        answer = second.as_mut() => {
            if found(&answer) {
                return (answer, false);
            }
            (first.await, answer)
        }
    };
    match answers {
        (_, second) if found(&second) => (second, false),
        (Err(error), second) => (second, !error.is_without_effect()),
        // The second one may have been carried out first.
        (first, Err(error)) => (first, !error.is_without_effect()),
        (first, Ok(_)) => (first, false),
    }
}
