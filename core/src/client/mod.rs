//! The client: one connection to a store, with all its locks and waiters.

mod attempt;
mod attempt_state;
mod builder;
mod dispatcher;
pub(crate) mod own_thread;
mod pending_releases;
mod releaser;
mod renewal_schedule;
mod renewer;
mod timeout;

use std::{cmp::Reverse, fmt, sync::Arc, time::Duration};

pub use builder::ClientBuilder;
pub use releaser::Release;
use tokio::{runtime::Handle, sync::oneshot};

use self::releaser::Releaser;
pub(crate) use self::{
    attempt::Attempt,
    attempt_state::Stage,
    builder::Defaults,
    dispatcher::Dispatcher,
    releaser::{Command, Removal},
    timeout::timeout_at,
};
use crate::{
    backend::{Backend, BackendInfo, Connect},
    capability::Capabilities,
    error::{Error, ErrorKind},
    id::AttemptId,
    loss::LossReason,
    name::{LockName, Namespace},
    request::{Evicted, List, LockState, Page},
    token::FencingToken,
};

/// One client of a store. Cheap to clone; clones are the same client.
///
/// A client renews all its grants and reports all its waiters together, on the runtime on which it
/// was connected. The client and its connection end when its last clone, lock and guard are gone;
/// [`shutdown`](Self::shutdown) ends it in an orderly way.
#[derive(Clone)]
pub struct Client(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) releaser: Releaser,
    pub(crate) info: BackendInfo,
    pub(crate) namespace: Namespace,
    pub(crate) defaults: Defaults,
    /// The runtime of the client's own thread, if it has one.
    pub(crate) own_thread: Option<Handle>,
}

/// The outcome of a shutdown (clause R5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shutdown {
    /// Number of grants whose release the store has acknowledged.
    pub released: usize,
    /// Grants that could not be released in time. They expire in the store within their TTL.
    pub unreleased: Vec<Unreleased>,
}

/// A grant that could not be released in time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unreleased {
    /// The lock.
    pub name: LockName,
    /// The grant's token.
    pub token: FencingToken,
}

impl Client {
    /// Starts the configuration of a client for a store.
    pub fn builder(connect: impl Connect) -> ClientBuilder {
        ClientBuilder::new(Arc::new(connect))
    }

    /// Returns facts about the store, without secrets.
    #[must_use]
    pub fn info(&self) -> &BackendInfo {
        &self.0.info
    }

    /// Returns the namespace of the client's locks.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    /// Returns the backend's capabilities, as last read.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.0.dispatcher.capabilities()
    }

    /// Returns the driver, for tools and test suites. The client neither renews nor watches what is
    /// acquired through the driver directly.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.0.backend
    }

    /// Returns the number of this client's attempts that hold or wait now.
    #[must_use]
    pub fn live_attempts(&self) -> usize {
        self.0.dispatcher.len()
    }

    /// Returns the holder and the waiters of a lock. Changes nothing (clause I1).
    ///
    /// # Errors
    ///
    /// The store's error; [`ErrorKind::Timeout`] if the store does not answer within the request
    /// time-out; [`ErrorKind::InvalidName`].
    ///
    /// # Cancel safety
    ///
    /// Cancelling has no effect on the lock.
    pub async fn inspect(&self, name: impl AsRef<str>) -> Result<LockState, Error> {
        let name = LockName::new(name)?;
        let call = self.backend().inspect(&name);
        self.with_request_timeout("inspecting", ErrorKind::Timeout, call)
            .await
    }

    /// Returns one page of the locks in the namespace that have a holder or waiters (clause I1).
    ///
    /// # Errors
    ///
    /// As [`inspect`](Self::inspect).
    ///
    /// # Cancel safety
    ///
    /// Cancelling has no effect on any lock.
    pub async fn list(&self, request: List) -> Result<Page, Error> {
        self.with_request_timeout("listing", ErrorKind::Timeout, self.backend().list(request))
            .await
    }

    /// Revokes the grant with this token, and no other grant (clause I2).
    ///
    /// This does not stop the old holder's work. The holder continues until it learns of the
    /// eviction; until then only the fencing token protects the resource.
    ///
    /// # Errors
    ///
    /// As [`inspect`](Self::inspect), but [`ErrorKind::OutcomeUnknown`] if the store does not
    /// answer.
    ///
    /// # Cancel safety
    ///
    /// After cancelling, it is unknown whether the grant was evicted. The call can be repeated
    /// safely.
    pub async fn evict(
        &self,
        name: impl AsRef<str>,
        token: FencingToken,
    ) -> Result<Evicted, Error> {
        let name = LockName::new(name)?;
        let call = self.backend().evict(&name, token);
        self.with_request_timeout("evicting", ErrorKind::OutcomeUnknown, call)
            .await
    }

    /// Deletes what the store keeps of a free lock whose name no client uses any more, such as a lock
    /// of a test. Returns the longest time for which anything of it may remain: zero means nothing,
    /// `None` forever. Deletes nothing of a lock that has a holder or waiters.
    ///
    /// A store keeps the last token of a lock, so that tokens rise even if its clock is set back.
    /// After this call, tokens of the name rise only as long as the clock does.
    ///
    /// # Errors
    ///
    /// As [`evict`](Self::evict).
    ///
    /// # Cancel safety
    ///
    /// After cancelling, it is unknown what was deleted. The call can be repeated safely.
    pub async fn discard(&self, name: impl AsRef<str>) -> Result<Option<Duration>, Error> {
        let name = LockName::new(name)?;
        let call = self.backend().discard(&name);
        self.with_request_timeout("discarding", ErrorKind::OutcomeUnknown, call)
            .await
    }

    /// Releases all grants of this client, removes its waiters from every queue, and closes the
    /// connection (clause R5). Guards are lost with [`LossReason::Closed`]; waiting acquires fail
    /// with [`ErrorKind::Closed`].
    ///
    /// Returns after `within` at the latest, with the grants that could not be released by then. A
    /// [minimum hold](crate::Lock::min_hold) that is not over by then is one of them: the store frees it
    /// after its TTL. A second call has no effect.
    ///
    /// # Cancel safety
    ///
    /// The client stays closed, and the releases continue in the background, as long as the runtime
    /// lasts.
    pub async fn shutdown(&self, within: Duration) -> Shutdown {
        let Some(attempts) = self.0.dispatcher.close() else {
            return Shutdown::default();
        };
        let dispatcher = &self.0.dispatcher;
        let (clock, releases) = (&*dispatcher.clock, &self.0.releaser.releases);
        let now = dispatcher.now();
        let limit = now + within;
        releases.close();
        // A removal needs some of the time that is left.
        let hold_limit = now + within / 2;
        let ends_in_time = |attempt: &Arc<Attempt>| {
            let held_until = attempt.held_until();
            held_until > now && held_until <= hold_limit
        };
        let (mut later, at_once): (Vec<_>, Vec<_>) = attempts.into_iter().partition(ends_in_time);
        let mut held = Vec::new();
        let mut leaves_grants = false;
        for attempt in at_once {
            held.extend(self.close_attempt(&attempt, within / 2));
            if attempt.held_until() > now {
                releases.give_up(attempt.id);
                leaves_grants = true;
            }
        }
        // The client renews these until their minimum hold is over.
        later.sort_by_key(|attempt| Reverse(attempt.held_until()));
        let mut later = CloseOnDrop {
            client: self,
            attempts: later,
        };
        while let Some(attempt) = later.attempts.last().map(Arc::clone) {
            clock.sleep_until(attempt.held_until()).await;
            held.extend(self.close_attempt(&attempt, within / 4));
            later.attempts.pop();
        }
        // Releases that were under way before, and those of dropped guards, are waited for as well.
        let _ = timeout_at(clock, limit, releases.settled()).await;
        // Also the removals that cancelled acquires have queued.
        let (done, drained) = oneshot::channel();
        if dispatcher.send_command(Command::Drain(done)) {
            let _ = timeout_at(clock, limit, drained).await;
        }
        held.retain(|attempt| !releases.contains(*attempt));
        let report = Shutdown {
            released: held.len(),
            unreleased: releases.unreleased(),
        };
        // The end of a pooled session would end the grants whose minimum hold is not over.
        if !leaves_grants {
            let _ = timeout_at(clock, limit, self.backend().close()).await;
        }
        report
    }

    /// Ends an attempt, and passes its removal to the releaser, also if the caller stops waiting. A renewal
    /// that hangs must leave time for the removal: it is waited for within `idle_within`. Returns the id of
    /// an attempt that holds its lock.
    fn close_attempt(&self, attempt: &Arc<Attempt>, idle_within: Duration) -> Option<AttemptId> {
        let dispatcher = &self.0.dispatcher;
        let now = dispatcher.now();
        let holds = attempt.grant().is_some() && attempt.phase(now).is_live();
        if holds {
            self.0.releaser.releases.begin(attempt);
        }
        // First of all, so that nobody who learns of the end removes the attempt before its minimum hold.
        dispatcher.forget(attempt);
        attempt.on_gone(LossReason::Closed, now);
        attempt.stop_waiting(now);
        let held_until = attempt.held_until();
        dispatcher.send_command(Command::Remove(Removal {
            not_before: (now < held_until).then_some(held_until),
            idle_within: Some(dispatcher.request_timeout.min(idle_within)),
            ..Removal::new(attempt, holds)
        }));
        holds.then_some(attempt.id)
    }

    async fn with_request_timeout<T>(
        &self,
        operation: &'static str,
        kind: ErrorKind,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let dispatcher = &self.0.dispatcher;
        let limit = dispatcher.now() + dispatcher.request_timeout;
        match timeout_at(&*dispatcher.clock, limit, call).await {
            Some(answer) => answer,
            None => Err(Error::new(kind, operation)
                .with_backend(self.0.info.scheme)
                .with_detail(format!(
                    "the store gave no answer within {}",
                    humantime::format_duration(dispatcher.request_timeout)
                ))),
        }
    }
}

/// The attempts for whose minimum hold a shutdown waits. If it is cancelled, they are left to their TTL.
struct CloseOnDrop<'a> {
    client: &'a Client,
    attempts: Vec<Arc<Attempt>>,
}

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        for attempt in self.attempts.drain(..) {
            self.client.close_attempt(&attempt, Duration::ZERO);
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.0.info.endpoint)
            .field("namespace", &self.0.namespace)
            .finish_non_exhaustive()
    }
}
