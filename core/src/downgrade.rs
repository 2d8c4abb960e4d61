//! The change of a guard's mode (clauses M4 and M5).

use std::time::Duration;

use crate::{
    client::timeout_at,
    driver::Backoff,
    error::{Error, ErrorKind},
    guard::{Guard, NotHeld},
    mode::Mode,
    request::{Downgrade, Downgraded},
};

impl Guard {
    /// Turns an exclusive guard into a shared one, without letting anybody in between (clause M4): the
    /// grant keeps its token and its place, and the shared waiters right behind it are granted the lock.
    /// A guard that is already shared is returned as it is.
    ///
    /// The guard counts as shared from the moment at which the request is sent. The client repeats the
    /// request until the store answers or the lock is lost.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for a guard of permits and for a backend without shared locks, and
    /// the store's error if it is not retryable; then the lock is released in the background.
    /// [`ErrorKind::Unavailable`] if the lock is lost first.
    ///
    /// # Cancel safety
    ///
    /// The lock is released in the background.
    pub async fn downgrade(self) -> Result<Self, Error> {
        self.downgrade_in_place().await.map(|()| self)
    }

    /// Downgrades without taking the guard. The caller drops it after an error or a cancellation.
    pub(crate) async fn downgrade_in_place(&self) -> Result<(), Error> {
        const BACKOFF_MIN: Duration = Duration::from_millis(20);
        const BACKOFF_MAX: Duration = Duration::from_secs(1);
        let named = |error: Error| {
            error
                .with_operation("downgrading")
                .with_backend(self.client.0.info.scheme)
                .with_lock(self.name().clone())
        };
        match self.mode() {
            Mode::Shared => return Ok(()),
            Mode::Exclusive if self.client.capabilities().modes.shared => {}
            Mode::Exclusive => {
                return Err(named(
                    Error::new(ErrorKind::Unsupported, "downgrading")
                        .with_detail("this backend has no shared locks"),
                ));
            }
            Mode::Permits { .. } => {
                return Err(named(
                    Error::new(ErrorKind::Unsupported, "downgrading")
                        .with_detail("a guard of permits cannot be downgraded"),
                ));
            }
        }
        let dispatcher = &self.client.0.dispatcher;
        let ended = |ended: NotHeld| {
            let error = Error::new(ErrorKind::Unavailable, "downgrading");
            named(error.with_detail(ended.to_string()))
        };
        self.check().map_err(ended)?;
        self.attempt.mark_shared();
        let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
        loop {
            let request = Downgrade::new(
                self.name().clone(),
                self.attempt.id,
                self.ttl(),
                self.token(),
            );
            let limit = dispatcher.now() + dispatcher.request_timeout;
            let call = timeout_at(
                &*dispatcher.clock,
                limit,
                self.client.backend().downgrade(request),
            );
            let answer = tokio::select! {
                biased;
                end = self.ended() => return Err(ended(end)),
                answer = call => answer,
            };
            match answer {
                Some(Ok(Downgraded::Shared)) => return Ok(()),
                Some(Ok(Downgraded::Gone(reason))) => {
                    self.attempt.on_gone(reason, dispatcher.now());
                    dispatcher.check_deadline(&self.attempt);
                    return Err(ended(NotHeld::Lost(reason)));
                }
                Some(Err(error)) if !error.is_retryable() => return Err(named(error)),
                Some(Err(error)) => tracing::debug!(%error, "could not downgrade; trying again"),
                None => tracing::debug!("a downgrade was not answered; trying again"),
            }
            tokio::select! {
                biased;
                end = self.ended() => return Err(ended(end)),
                () = backoff.pause(&*dispatcher.clock) => {}
            }
        }
    }

    /// Refuses to turn a shared guard into an exclusive one (clause M5). Two shared guards that waited
    /// for this would wait for each other for ever.
    ///
    /// # Errors
    ///
    /// Always [`ErrorKind::Unsupported`], with what to do instead.
    pub fn upgrade(&self) -> Result<Self, Error> {
        let detail = match self.mode() {
            Mode::Exclusive => "this guard is exclusive already",
            Mode::Shared => {
                "a shared guard cannot become exclusive, because two of them would wait for each other; \
                 release it, acquire the lock for writing, and read again what was read under the shared \
                 guard"
            }
            Mode::Permits { .. } => {
                "a guard of permits cannot become exclusive; release it, and acquire the lock again"
            }
        };
        Err(Error::new(ErrorKind::Unsupported, "upgrading")
            .with_backend(self.client.0.info.scheme)
            .with_lock(self.name().clone())
            .with_detail(detail))
    }
}
