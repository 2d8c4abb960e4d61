//! The releaser: the one task per client that takes attempts out of the store for whoever cannot
//! wait for it: dropped guards, cancelled acquires, lost grants.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{attempt::Attempt, timeout::timeout_at};
use crate::{
    backend::Backend,
    clock::{Clock, Instant},
    error::{Error, ErrorKind},
    id::AttemptId,
    name::LockName,
    request::{Remove, Removed},
    telemetry,
};

/// Something to do for the releaser.
#[derive(Debug)]
pub(crate) enum Command {
    /// Take an attempt out.
    Remove(Removal),
    /// Say when all that was asked before is done.
    Drain(oneshot::Sender<()>),
}

/// An attempt to take out.
#[derive(Clone, Debug)]
pub(crate) struct Removal {
    pub(crate) name: LockName,
    pub(crate) id: AttemptId,
    pub(crate) ttl: Duration,
    pub(crate) outcome_known: bool,
    /// Leave it alone until then.
    pub(crate) not_before: Option<Instant>,
    /// Whose renewals must have stopped first.
    pub(crate) attempt: Arc<Attempt>,
}

/// How a removal that is repeated waits between two tries: from here, doubling, to one second.
const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(20);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How many removals are under way at once.
pub(crate) const MAX_CONCURRENT_REMOVALS: usize = 64;
/// When a removal is tried again that the store has refused, in a pooled session: whoever may change
/// rights may give them back.
const REFUSED_RETRY_DELAY: Duration = Duration::from_secs(2);

/// What has become of a removal.
#[derive(Debug)]
pub(crate) enum RemovalOutcome {
    /// The store has answered.
    Done(Removed),
    /// The entry lapses by itself.
    LeftToLapse,
    /// The store refuses it, and the entry does not lapse as long as this client lives.
    Refused(Removal),
}

/// What a removal needs.
#[derive(Clone, Debug)]
pub(crate) struct Releaser {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) request_timeout: Duration,
    /// Whether an entry that is not removed stays for as long as this client lives, so that its
    /// TTL is no last resort.
    pub(crate) pooled: bool,
}

impl Releaser {
    /// Runs until the client is gone and everything is done, and closes the backend.
    pub(super) async fn run(self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut removals: JoinSet<RemovalOutcome> = JoinSet::new();
        // Those that are not to begin yet take nobody's place, and nobody waits for them.
        let mut delayed = JoinSet::new();
        let mut drains = Vec::new();
        loop {
            if removals.is_empty() {
                for drain in drains.drain(..) {
                    let _: Result<(), ()> = oneshot::Sender::send(drain, ());
                }
            }
            tokio::select! {
                biased;
                command = commands.recv(), if removals.len() < MAX_CONCURRENT_REMOVALS => match command {
                    Some(Command::Remove(removal)) if removal.not_before.is_some() => {
                        delayed.spawn(self.clone().delay(removal));
                    }
                    Some(Command::Remove(removal)) => {
                        let releaser = self.clone();
                        removals.spawn(async move { releaser.remove_with_retry(removal).await });
                    }
                    Some(Command::Drain(done)) => drains.push(done),
                    None => break,
                },
                Some(done) = removals.join_next() => {
                    if let Ok(RemovalOutcome::Refused(mut removal)) = done {
                        removal.not_before = Some(self.clock.now() + REFUSED_RETRY_DELAY);
                        delayed.spawn(self.clone().delay(removal));
                    }
                }
                Some(due) = delayed.join_next() => {
                    if let Ok(removal) = due {
                        let releaser = self.clone();
                        removals.spawn(async move { releaser.remove_with_retry(removal).await });
                    }
                }
            }
        }
        // Closing the backend ends its sessions, and with them whatever could not be removed.
        let limit = self.clock.now() + 2 * self.request_timeout;
        let rest = async { while removals.join_next().await.is_some() {} };
        let _ = timeout_at(&*self.clock, limit, rest).await;
        self.backend.close().await;
    }

    async fn delay(self, removal: Removal) -> Removal {
        let begin = removal.not_before.unwrap_or(Instant::ORIGIN);
        self.clock.sleep_until(begin).await;
        removal
    }

    /// Repeats a removal until it is answered or cannot matter any more: after one TTL the entry
    /// has lapsed by itself, unless it lives as long as a pooled session.
    pub(crate) async fn remove_with_retry(&self, removal: Removal) -> RemovalOutcome {
        let limit = self.clock.now() + self.request_timeout;
        removal.attempt.wait_idle(&*self.clock, limit).await;
        let until = if self.pooled {
            Instant::FAR_FUTURE
        } else {
            self.clock.now() + removal.ttl.max(self.request_timeout)
        };
        let mut backoff = RETRY_BACKOFF_MIN;
        loop {
            match self.try_remove(&removal, self.request_timeout).await {
                Ok(removed) => return RemovalOutcome::Done(removed),
                Err(error) if self.pooled && !error.is_retryable() => {
                    tracing::warn!(
                        lock.name = %removal.name.as_str().escape_debug(),
                        lock.attempt = %removal.id,
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
                            lock.name = %removal.name.as_str().escape_debug(),
                            lock.attempt = %removal.id,
                            %error,
                            "could not remove an attempt; the store lets it lapse within its TTL",
                        );
                        return RemovalOutcome::LeftToLapse;
                    }
                    self.clock.sleep_until(again).await;
                    backoff = (backoff * 2).min(RETRY_BACKOFF_MAX);
                }
            }
        }
    }

    /// One try, within that time.
    pub(crate) async fn try_remove(
        &self,
        removal: &Removal,
        limit: Duration,
    ) -> Result<Removed, Error> {
        let request = Remove::new(
            removal.name.clone(),
            removal.id,
            removal.ttl,
            removal.outcome_known,
        );
        let limit = self.clock.now() + limit;
        match timeout_at(&*self.clock, limit, self.backend.remove(request)).await {
            Some(answer) => answer,
            None => Err(Error::new(ErrorKind::OutcomeUnknown, "releasing")
                .with_backend(self.backend.info().scheme)
                .with_lock(removal.name.clone())
                .with_detail("the store gave no answer in time")),
        }
    }
}
