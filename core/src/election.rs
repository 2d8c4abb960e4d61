//! Election of a leader (clauses E1 to E3).

use std::{fmt, ops::Deref, pin::Pin, sync::Arc, time::Duration};

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
    lock: Lock,
}

/// The guard of an elected leader. It is a [`Guard`]: its token is the term of the leader, and
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

    /// Returns whether the value or the term differ. The remaining time does not count.
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
        let lock = self.lock(name)?;
        Ok(Election { lock })
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
        Ok(Leader::of(&self.lock.client().inspect(self.name()).await?))
    }

    /// Returns an observer, which reports each change of the leader.
    #[must_use]
    pub fn observe(&self) -> Observer {
        let (client, ttl) = (self.lock.client(), self.lock.requested_ttl());
        let now = client.0.dispatcher.now();
        Observer {
            client: client.clone(),
            name: self.name().clone(),
            ttl,
            stale_after: client.capabilities().takeover.of(ttl, ttl),
            confirmed_at: now,
            next: now,
            question: None,
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
/// takeover bound; then it is [`Unknown`](Leader::Unknown). After the shutdown of its client, an observer
/// reports [`Unknown`](Leader::Unknown) and nothing after that.
pub struct Observer {
    client: Client,
    name: LockName,
    ttl: Duration,
    /// The time after which an answer says nothing about who leads.
    stale_after: Duration,
    /// When the question was sent that the store answered last.
    confirmed_at: Instant,
    /// When the next question is due.
    next: Instant,
    /// The question under way, and when it was sent. It outlives a call that is cancelled.
    question: Option<(Instant, Question)>,
    told: Option<Leader>,
}

type Question = Pin<Box<dyn Future<Output = Result<LockState, Error>> + Send>>;

/// The shortest time between two questions.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

impl Observer {
    /// Waits for the next news: at first who leads, later each change. While the store does not answer,
    /// it is asked again.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped and the method called again; no change is missed.
    pub async fn changed(&mut self) -> Leader {
        let clock = Arc::clone(&self.client.0.dispatcher.clock);
        loop {
            let is_unknown = self.told == Some(Leader::Unknown);
            if self.question.is_none() && clock.now() >= self.next {
                let (client, name) = (self.client.clone(), self.name.clone());
                let now = clock.now();
                self.next = now + (self.ttl / 3).max(MIN_INTERVAL);
                let question = Box::pin(async move { client.inspect(name).await });
                self.question = Some((now, question));
            }
            // An observer that was not polled for long waits for one answer first.
            let stale_at = self.confirmed_at + self.stale_after;
            let unknown_at = match &self.question {
                Some((asked, _)) if *asked > stale_at => *asked + self.ttl / 3,
                _ => stale_at,
            };
            let Some((asked, question)) = &mut self.question else {
                let until = if is_unknown {
                    self.next
                } else {
                    self.next.min(unknown_at)
                };
                clock.sleep_until(until).await;
                if !is_unknown && clock.now() >= unknown_at && clock.now() < self.next {
                    return self.tell(Leader::Unknown);
                }
                continue;
            };
            let answer = tokio::select! {
                biased;
                answer = question => answer,
                () = clock.sleep_until(unknown_at), if !is_unknown => {
                    return self.tell(Leader::Unknown);
                }
            };
            let asked = *asked;
            self.question = None;
            match answer {
                Ok(state) => {
                    if let Some(leader) = self.confirm(asked, clock.now(), &state) {
                        return self.tell(leader);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Closed && is_unknown => {
                    return std::future::pending().await;
                }
                Err(error) if error.kind() == ErrorKind::Closed => {
                    return self.tell(Leader::Unknown);
                }
                Err(error) => tracing::debug!(%error, "could not ask who leads"),
            }
        }
    }

    /// Takes an answer to a question that was sent at `asked`. Returns the leader if it is news. An answer
    /// that took longer than the takeover bound says nothing: another leader may lead since.
    fn confirm(&mut self, asked: Instant, now: Instant, state: &LockState) -> Option<Leader> {
        // A holder with a shorter TTL is succeeded sooner.
        let held_for = state.holder.as_ref().and_then(|holder| holder.ttl);
        let takeover = self.client.capabilities().takeover;
        let stale_after = takeover.of(held_for.unwrap_or(self.ttl).min(self.ttl), self.ttl);
        if now >= asked + stale_after {
            return None;
        }
        (self.confirmed_at, self.stale_after) = (asked, stale_after);
        let leader = Leader::of(state);
        let is_news = self.told.as_ref().is_none_or(|told| leader.differs(told));
        is_news.then_some(leader)
    }

    fn tell(&mut self, leader: Leader) -> Leader {
        self.told = Some(leader.clone());
        leader
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer")
            .field("name", &self.name)
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}
