//! Election of a leader (clauses E1 to E3).

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use crate::{
    acquire::Acquisition,
    client::{Client, Release},
    clock::Instant,
    error::{Error, ErrorKind},
    guard::Guard,
    lock::Lock,
    name::LockName,
    request::{Holder, LockState, Owner},
    token::FencingToken,
};

/// An election: the holder of the lock leads. Its value, such as an address, is shown to observers.
#[derive(Clone, Debug)]
pub struct Election {
    client: Client,
    lock: Lock,
    ttl: Option<Duration>,
}

/// The leadership that an election has given. It is a [`Guard`]: its token is the term of the leader, and
/// whether this process leads is what [`check`](Guard::check) says, never what was last observed.
#[must_use = "dropping it resigns"]
pub struct Leadership {
    guard: Guard,
    value: String,
}

/// Who leads, as an observer knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leader {
    /// Somebody led when the store was last asked.
    Leads {
        /// The value of the leader; empty for a holder that uses the store without this framework.
        value: String,
        /// The term: the leader's token, if the store reports it.
        term: Option<FencingToken>,
        /// The holder of the lock.
        holder: Box<Holder>,
    },
    /// Nobody led when the store was last asked.
    Vacant,
    /// The store has confirmed nothing for longer than the takeover bound, so that another leader may
    /// lead now.
    Unknown,
}

impl fmt::Display for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leads { value, term, .. } => {
                write!(f, "{value:?} leads")?;
                term.map_or(Ok(()), |term| write!(f, ", term {term}"))
            }
            Self::Vacant => f.write_str("nobody leads"),
            Self::Unknown => f.write_str("the store does not answer, and somebody may lead"),
        }
    }
}

impl Leader {
    /// Returns the leader that the state of a lock shows.
    #[must_use]
    pub fn of(state: &LockState) -> Self {
        match &state.holder {
            None => Self::Vacant,
            Some(holder) => {
                let owner = holder.owner.as_ref();
                Self::Leads {
                    value: owner.map_or_else(String::new, |owner| owner.label.clone()),
                    term: holder.token,
                    holder: Box::new(holder.clone()),
                }
            }
        }
    }

    /// Returns whether another value is news to an observer: the remaining time of a grant is none.
    fn differs(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Leads { value, term, .. },
                Self::Leads {
                    value: other_value,
                    term: other_term,
                    ..
                },
            ) => (value, term) != (other_value, other_term),
            _ => self != other,
        }
    }
}

impl Client {
    /// Returns the election with this name. Sends nothing. The lock with the same name is the election's.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidName`], with the defect of the name and its position.
    pub fn election(&self, name: impl AsRef<str>) -> Result<Election, Error> {
        Ok(Election {
            client: self.clone(),
            lock: self.lock(name)?,
            ttl: None,
        })
    }
}

impl Election {
    /// Returns the name of the election.
    #[must_use]
    pub const fn name(&self) -> &LockName {
        self.lock.name()
    }

    /// Sets the TTL: the minimum time for which a silent leader keeps the leadership, as [`Lock::ttl`].
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.lock = self.lock.ttl(ttl);
        self.ttl = Some(ttl);
        self
    }

    /// Waits until this client leads. Candidates lead in the order in which they came.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`], and [`ErrorKind::Config`] for a value of more than [`Owner::MAX_BYTES`]
    /// bytes.
    ///
    /// # Cancel safety
    ///
    /// As [`Lock::acquire`].
    pub async fn campaign(&self, value: impl Into<String>) -> Result<Leadership, Error> {
        let value = self.checked(value.into())?;
        let guard = self.lock.clone().label(value.as_str()).acquire().await?;
        Ok(Leadership { guard, value })
    }

    /// Leads if nobody else does. Does not wait.
    ///
    /// # Errors
    ///
    /// As [`Lock::try_acquire`] and [`campaign`](Self::campaign).
    ///
    /// # Cancel safety
    ///
    /// As [`Lock::acquire`].
    pub async fn try_lead(
        &self,
        value: impl Into<String>,
    ) -> Result<Acquisition<Leadership>, Error> {
        let value = self.checked(value.into())?;
        let acquired = self
            .lock
            .clone()
            .label(value.as_str())
            .try_acquire()
            .await?;
        Ok(match acquired {
            Acquisition::Acquired(guard) => Acquisition::Acquired(Leadership { guard, value }),
            Acquisition::Busy(holder) => Acquisition::Busy(holder),
        })
    }

    /// Asks the store who leads.
    ///
    /// # Errors
    ///
    /// As [`Client::inspect`].
    ///
    /// # Cancel safety
    ///
    /// Cancelling has no effect on the election.
    pub async fn leader(&self) -> Result<Leader, Error> {
        Ok(Leader::of(&self.client.inspect(self.name()).await?))
    }

    /// Returns an observer, which reports each change of the leader.
    #[must_use]
    pub fn observe(&self) -> Observer {
        let defaults = &self.client.0.defaults;
        let ttl = self.ttl.unwrap_or(defaults.ttl);
        let dispatcher = &self.client.0.dispatcher;
        Observer {
            client: self.client.clone(),
            name: self.name().clone(),
            every: ttl / 3,
            stale_after: self.client.capabilities().takeover.of(ttl, ttl),
            confirmed_at: dispatcher.now(),
            next: dispatcher.now(),
            told: None,
        }
    }

    fn checked(&self, value: String) -> Result<String, Error> {
        if value.len() <= Owner::MAX_BYTES {
            return Ok(value);
        }
        let detail = format!(
            "the value of a leader has {} bytes, and at most {} are possible",
            value.len(),
            Owner::MAX_BYTES
        );
        Err(Error::new(ErrorKind::Config, "campaigning")
            .with_lock(self.name().clone())
            .with_detail(detail))
    }
}

impl Leadership {
    /// Returns the value that observers see.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Returns the term: the fencing token of the leadership.
    #[must_use]
    pub const fn term(&self) -> FencingToken {
        self.guard.token()
    }

    pub(crate) fn into_parts(self) -> (Guard, String) {
        (self.guard, self.value)
    }

    /// Gives the leadership to the next candidate, as [`Guard::release`]. Can be repeated: after
    /// [`Release::Unknown`], another call repeats the request.
    ///
    /// # Cancel safety
    ///
    /// As [`Guard::release`].
    pub async fn resign(&self) -> Release {
        self.guard.release().await
    }
}

impl Deref for Leadership {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership")
            .field("guard", &self.guard)
            .field("value", &self.value)
            .finish()
    }
}

/// Reports the leader of an election, and each change. It asks the store once in a third of the TTL.
///
/// If the leader changes several times between two questions, only the last change is reported. A
/// leader is reported until another one is seen, or until the store has confirmed nothing for the
/// takeover bound; then it is [`Unknown`](Leader::Unknown).
#[derive(Debug)]
pub struct Observer {
    client: Client,
    name: LockName,
    every: Duration,
    stale_after: Duration,
    /// When the question was sent that the store answered last.
    confirmed_at: Instant,
    next: Instant,
    told: Option<Leader>,
}

impl Observer {
    /// Waits for the next news: at first who leads, later each change. While the store does not answer,
    /// it is asked again; an error that no repetition can mend makes the leader
    /// [`Unknown`](Leader::Unknown), too.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped and the method called again; no change is missed.
    pub async fn changed(&mut self) -> Leader {
        loop {
            let clock = Arc::clone(&self.client.0.dispatcher.clock);
            let stale_at = self.confirmed_at + self.stale_after;
            if self.told != Some(Leader::Unknown) && clock.now() >= stale_at {
                return self.tell(Leader::Unknown);
            }
            if clock.now() < self.next {
                let until = if self.told == Some(Leader::Unknown) {
                    self.next
                } else {
                    self.next.min(stale_at)
                };
                clock.sleep_until(until).await;
                continue;
            }
            let asked = clock.now();
            self.next = asked + self.every;
            let question = self.client.inspect(&self.name);
            // An answer that hangs must not keep the observer from saying that it knows nothing.
            let limit = if self.told == Some(Leader::Unknown) {
                Instant::FAR_FUTURE
            } else {
                stale_at
            };
            let answer = tokio::select! {
                biased;
                answer = question => answer,
                () = clock.sleep_until(limit) => continue,
            };
            match answer {
                Ok(state) => {
                    self.confirmed_at = asked;
                    let leader = Leader::of(&state);
                    if self.told.as_ref().is_none_or(|told| leader.differs(told)) {
                        return self.tell(leader);
                    }
                }
                Err(error) => tracing::debug!(%error, "could not ask who leads"),
            }
        }
    }

    fn tell(&mut self, leader: Leader) -> Leader {
        self.told = Some(leader.clone());
        leader
    }
}
