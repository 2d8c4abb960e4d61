//! One lease: who uses it, until when it is proved, and how it is kept alive.

mod pool;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};
use tenure_core::clock::{Clock, Instant};

pub(crate) use self::pool::Pool;
use crate::{
    error::Fault,
    keepalive_validity::Term,
    transport::{Link, Member},
};

/// After so many fenced attempts a lease is left by those that follow, so that it can end, and their
/// fences with it.
const MOST_FENCED: usize = 1_000;

/// A lease of this client.
pub(crate) struct Lease {
    pub(crate) id: i64,
    /// What the server has granted.
    pub(crate) ttl: Duration,
    state: Mutex<State>,
    beating: tokio::sync::Mutex<Beating>,
}

#[derive(Debug)]
struct State {
    /// The store keeps it for its TTL from there.
    proved: Instant,
    gone: bool,
    /// How many attempts use it.
    seats: usize,
    fenced: usize,
    /// When an attempt has come or left last.
    touched: Instant,
}

#[derive(Default)]
struct Beating {
    stream: Option<Stream>,
    last: Option<Beat>,
}

struct Stream {
    member: Member,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

/// A keep-alive that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beat {
    /// Read before it was handed to the client library.
    pub(crate) from: Instant,
    said: Option<Term>,
    trusted: bool,
}

impl Beat {
    /// Whether it proves anything, given a transaction that was sent after its answer.
    pub(crate) fn counts(&self, later: Option<Term>) -> bool {
        self.trusted || (self.said.is_some() && self.said == later)
    }

    /// Whether it proves something as it is.
    pub(crate) const fn is_trusted(&self) -> bool {
        self.trusted
    }
}

impl Lease {
    pub(crate) fn new(id: i64, ttl: Duration, proved: Instant) -> Self {
        Self {
            id,
            ttl,
            state: Mutex::new(State {
                proved,
                gone: false,
                seats: 0,
                fenced: 0,
                touched: proved,
            }),
            beating: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn proved(&self) -> Instant {
        self.lock().proved
    }

    pub(crate) fn prove(&self, from: Instant) {
        let mut state = self.lock();
        state.proved = state.proved.max(from);
    }

    /// The store has said that it does not exist.
    pub(crate) fn bury(&self) {
        self.lock().gone = true;
    }

    /// Whether as far as is known the store may have let it expire.
    pub(crate) fn has_lapsed(&self, now: Instant) -> bool {
        let state = self.lock();
        state.gone || now >= state.proved + self.ttl
    }

    pub(crate) fn add_fence(&self) {
        self.lock().fenced += 1;
    }

    /// Whether attempts that begin now should use another lease.
    pub(crate) fn is_spent(&self) -> bool {
        let state = self.lock();
        state.gone || state.fenced >= MOST_FENCED
    }

    /// Whether a grant under it would be worth having.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        let state = self.lock();
        !state.gone && now.since(state.proved) < self.ttl / 2
    }

    /// Whether nobody keeps it alive but we. Whoever holds or waits renews; where attempts come and go
    /// so fast that none lives to be renewed, nobody does.
    pub(crate) fn is_ours_to_keep(&self, now: Instant) -> bool {
        let state = self.lock();
        !state.gone
            && now.since(state.proved) >= self.ttl / 3
            && (state.seats == 0 || now.since(state.touched) < self.ttl / 3)
    }

    /// Since when nobody uses it.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.seats == 0).then_some(state.touched)
    }

    /// One keep-alive, or one that somebody else has sent since this was called.
    pub(crate) async fn keep_alive(&self, link: &Link, clock: &dyn Clock) -> Result<Beat, Fault> {
        let asked = clock.now();
        let mut beating = self.beating.lock().await;
        if let Some(beat) = beating.last.filter(|beat| beat.from >= asked) {
            return Ok(beat);
        }
        // Taken out while it is in use: if this future is dropped the stream goes with it, since
        // answers are matched by their order.
        let open = beating
            .stream
            .take()
            .filter(|stream| link.is_current(&stream.member));
        if let Some(stream) = open {
            match self.beat(stream, link, clock, link.patience()).await {
                Ok((stream, beat)) => {
                    beating.stream = Some(stream);
                    beating.last = Some(beat);
                    return Ok(beat);
                }
                Err(Fault::LeaseGone) => return Err(Fault::LeaseGone),
                // Whoever waits behind this one must not wait for a server that has stopped.
                Err(fault) => tracing::debug!(?fault, "a keep-alive was not answered"),
            }
        }
        // Rare, and large.
        let stream = Box::pin(self.open(link)).await?;
        let (stream, beat) = self.beat(stream, link, clock, link.limit).await?;
        beating.stream = Some(stream);
        beating.last = Some(beat);
        Ok(beat)
    }

    async fn beat(
        &self,
        mut stream: Stream,
        link: &Link,
        clock: &dyn Clock,
        limit: Duration,
    ) -> Result<(Stream, Beat), Fault> {
        let from = clock.now();
        let member = stream.member.clone();
        let asking = Box::pin(async {
            stream.keeper.keep_alive().await?;
            stream.answers.message().await
        });
        let Some(answer) = link.patiently(&member, limit, asking).await? else {
            link.suspect(member.generation);
            return Err(Fault::silence());
        };
        if answer.ttl() <= 0 {
            return Err(Fault::LeaseGone);
        }
        let beat = Beat {
            from,
            said: answer.header().map(Term::of),
            trusted: member.trusted,
        };
        Ok((stream, beat))
    }

    /// The library keeps the first answer of a stream to itself, with who gave it; so the first
    /// keep-alive of a stream proves nothing here.
    async fn open(&self, link: &Link) -> Result<Stream, Fault> {
        link.ask_around(self.id, |member, id| async move {
            let (keeper, answers) = member.client.lease_client().keep_alive(id).await?;
            Ok(Stream {
                member,
                keeper,
                answers,
            })
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("id", &format_args!("{:x}", self.id))
            .field("ttl", &self.ttl)
            .field("state", &*self.lock())
            .finish_non_exhaustive()
    }
}

/// An attempt's use of a lease.
#[derive(Debug)]
pub(crate) struct Seat {
    lease: Arc<Lease>,
    clock: Arc<dyn Clock>,
}

impl Seat {
    pub(crate) fn new(lease: Arc<Lease>, clock: Arc<dyn Clock>) -> Self {
        let mut state = lease.lock();
        state.seats += 1;
        state.touched = state.touched.max(clock.now());
        drop(state);
        Self { lease, clock }
    }

    pub(crate) const fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.lease.lock();
        state.seats = state.seats.saturating_sub(1);
        state.touched = state.touched.max(self.clock.now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d2_an_answer_of_a_term_that_is_over_proves_nothing() {
        let beat = |trusted| Beat {
            from: Instant::ORIGIN,
            said: Some(Term::new(1, 7)),
            trusted,
        };
        assert!(beat(false).counts(Some(Term::new(1, 7))));
        // Another leader has come between; or another server has answered.
        assert!(!beat(false).counts(Some(Term::new(1, 8))));
        assert!(!beat(false).counts(Some(Term::new(2, 7))));
        assert!(!beat(false).counts(None));
        assert!(beat(true).counts(None));
    }
}
