//! A session: what all locks of one client and TTL share. It outlives its connections.

mod beat;
pub(crate) mod book;
pub(crate) mod pool;
pub(crate) mod proof;
mod run;
pub(crate) mod time;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tenure_core::{
    backend::{BackendEvent, Context},
    clock::Instant,
    error::{Error, ErrorKind},
    loss::LossReason,
};
use tokio::sync::{Notify, watch};

use self::{book::Book, time::until};
use crate::{
    config::Options,
    error::error,
    target::Target,
    wire::{
        conn::{Conn, Listener},
        open::Trouble,
        proto::Event,
    },
};

/// What sessions of one client have in common.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) target: Target,
    pub(crate) options: Options,
    pub(crate) context: Context,
}

impl Settings {
    pub(crate) fn now(&self) -> Instant {
        self.context.clock.now()
    }

    pub(crate) fn limit(&self) -> Instant {
        self.now() + self.context.request_timeout
    }
}

/// A session's connection.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) conn: Arc<Conn>,
    /// Its number among the session's connections, from 1.
    pub(crate) number: u64,
    /// The session's id.
    pub(crate) owner: i64,
}

/// Where a session's connection stands.
#[derive(Clone, Debug)]
enum State {
    /// The first round of tries has not ended.
    Fresh,
    Up(Link),
    /// Not connected, and why.
    Down(Trouble),
    /// Ended, and why if it never began.
    Over(Option<Trouble>),
}

/// What is known of a session's life, for those who hold or wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof {
    /// The number of the present connection; 0 if there is none.
    pub(crate) connection: u64,
    pub(crate) ttl: Duration,
    /// From when on the session lives for its TTL, if that is new enough to be worth a grant.
    pub(crate) fresh: Option<Instant>,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Locks: its life is proved, and must last as long as was asked for.
    Locks,
    /// Looking at locks; any life will do.
    Looking,
}

/// A session.
pub(crate) struct Session {
    pub(crate) settings: Arc<Settings>,
    /// How long it lives in silence; what was asked for, for one that is for locks.
    pub(crate) ttl: Duration,
    purpose: Use,
    state: watch::Sender<State>,
    /// The newest proof.
    proved: watch::Sender<Option<Instant>>,
    /// The number of the connection on which everything was looked at.
    checked: watch::Sender<u64>,
    /// How long the servers let it live.
    granted: watch::Sender<Duration>,
    book: Mutex<Book>,
    /// Rung when there are nodes to be watched.
    bell: Notify,
    closing: watch::Sender<Closing>,
    /// When the core last asked for anything that this session is to live for.
    wanted: watch::Sender<Instant>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("ttl", &self.ttl)
            .field("attempts", &self.book().len())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Begins a session. Nothing is waited for.
    pub(crate) fn begin(settings: &Arc<Settings>, ttl: Duration, purpose: Use) -> Arc<Self> {
        let session = Arc::new(Self {
            settings: Arc::clone(settings),
            ttl,
            purpose,
            state: watch::Sender::new(State::Fresh),
            proved: watch::Sender::new(None),
            checked: watch::Sender::new(0),
            granted: watch::Sender::new(Duration::ZERO),
            book: Mutex::default(),
            bell: Notify::new(),
            closing: watch::Sender::new(Closing::No),
            wanted: watch::Sender::new(settings.now()),
        });
        tokio::spawn(run::run(Arc::clone(&session)));
        session
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(*self.state.borrow(), State::Over(_))
    }

    /// How long the servers let it live; known once it was connected.
    pub(crate) fn granted(&self) -> Duration {
        *self.granted.borrow()
    }

    /// The present connection, if there is one.
    pub(crate) fn up(&self) -> Option<Link> {
        match &*self.state.borrow() {
            State::Up(link) if !link.conn.is_over() => Some(link.clone()),
            _ => None,
        }
    }

    /// The connection; waits for one for a while, but never longer than until `limit`. Nothing was
    /// sent if there is none.
    pub(crate) async fn link(
        &self,
        operation: &'static str,
        limit: Instant,
    ) -> Result<Link, Error> {
        /// A server's end is made up for by another one in this time, as a rule.
        const PATIENCE: Duration = Duration::from_secs(1);
        if let Some(link) = self.up() {
            return Ok(link);
        }
        let mut state = self.state.subscribe();
        let clock = &*self.settings.context.clock;
        let fresh = matches!(*state.borrow(), State::Fresh);
        let patience = self.settings.now() + PATIENCE;
        let limit = if fresh { limit } else { limit.min(patience) };
        let settled = |state: &State| match state {
            State::Up(link) => !link.conn.is_over(),
            State::Over(_) => true,
            State::Down(trouble) => fresh || trouble.kind != ErrorKind::Unavailable,
            State::Fresh => false,
        };
        let came = async {
            let _ = state.wait_for(settled).await;
        };
        let _ = until(clock, limit, came).await;
        let now = state.borrow().clone();
        match now {
            State::Up(link) if !link.conn.is_over() => Ok(link),
            State::Down(trouble) | State::Over(Some(trouble)) => Err(trouble.into_error(operation)),
            State::Over(None) => Err(error(
                ErrorKind::Unavailable,
                operation,
                "the session has ended; a new one is made for what comes next",
            )),
            State::Fresh | State::Up(_) => Err(error(
                ErrorKind::Unavailable,
                operation,
                "no server could be reached yet",
            )),
        }
    }

    /// The core asks for what this session is to live for: an enqueue, a renewal, a report.
    pub(crate) fn want(&self) {
        self.wanted.send_replace(self.settings.now());
    }

    /// Whether the session is to be kept alive. One whose attempts nobody renews any more lapses as
    /// they would have: when to renew is not for a session to decide. Two renewals that get lost
    /// take up to a TTL, of which it stays alive for the first half by its heartbeats, and for
    /// another TTL without them.
    fn is_wanted(&self) -> bool {
        let quiet = self.settings.now().since(*self.wanted.borrow());
        self.purpose == Use::Looking || quiet < self.ttl / 2 || self.book().len() == 0
    }

    /// Returns once the session is to be kept alive again.
    async fn until_wanted(&self) {
        let mut wanted = self.wanted.subscribe();
        while !self.is_wanted() {
            if wanted.changed().await.is_err() {
                return;
            }
        }
    }

    /// The newest proof.
    pub(crate) fn proved(&self) -> Option<Instant> {
        *self.proved.borrow()
    }

    fn prove(&self, from: Instant) {
        self.proved.send_if_modified(|proved| {
            let newer = proved.is_none_or(|proved| proved < from);
            if newer {
                *proved = Some(from);
            }
            newer
        });
    }

    /// The newest proof if it is new enough to be worth a grant: half of the TTL is left.
    pub(crate) fn fresh_proof(&self) -> Option<Instant> {
        let limit = self.settings.now().before(self.ttl / 2);
        self.proved().filter(|from| *from > limit)
    }

    /// Waits for a proof that is worth a grant, as long as this connection lasts.
    pub(crate) async fn wait_fresh(&self, link: &Link, limit: Instant) -> Option<Instant> {
        if let Some(from) = self.fresh_proof() {
            return Some(from);
        }
        let oldest = self.settings.now().before(self.ttl / 2);
        self.wait_proof(Some(oldest), link, limit).await
    }

    /// Waits for a proof that is young enough for a report: with an older one the core would report
    /// again at once.
    pub(crate) async fn wait_young(&self, link: &Link, limit: Instant) -> Option<Instant> {
        let oldest = self.settings.now().before(self.ttl / 4);
        self.wait_proof(Some(oldest), link, limit).await
    }

    /// Waits for a proof that is newer than that one, as long as this connection lasts.
    pub(crate) async fn wait_proof(
        &self,
        told: Option<Instant>,
        link: &Link,
        limit: Instant,
    ) -> Option<Instant> {
        let mut proved = self.proved.subscribe();
        let newer = |proved: &Option<Instant>| proved.is_some() && *proved > told;
        let came = async {
            tokio::select! {
                came = proved.wait_for(newer) => came.ok().and_then(|from| *from),
                () = link.conn.over() => None,
            }
        };
        until(&*self.settings.context.clock, limit, came)
            .await
            .flatten()
    }

    /// Waits until everything was looked at on this connection.
    pub(crate) async fn wait_checked(&self, link: &Link, limit: Instant) -> bool {
        let mut checked = self.checked.subscribe();
        let came = async {
            tokio::select! {
                came = checked.wait_for(|number| *number >= link.number) => came.is_ok(),
                () = link.conn.over() => false,
            }
        };
        until(&*self.settings.context.clock, limit, came).await == Some(true)
    }

    /// Says that there are nodes to be watched.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Tells the core.
    pub(crate) fn tell(&self, events: impl IntoIterator<Item = BackendEvent>) {
        for event in events {
            self.settings.context.events.send(event);
        }
    }

    fn happened(&self, event: &Event) {
        let proof = Proof {
            connection: self.up().map_or(0, |link| link.number),
            ttl: self.ttl,
            fresh: self.fresh_proof(),
        };
        let out = self.book().happened(event, &proof);
        self.tell(out);
        if !event.deleted {
            self.ring();
        }
    }

    fn end(&self, trouble: Option<Trouble>, reason: LossReason) {
        self.state.send_replace(State::Over(trouble));
        let out = self.book().end(reason);
        self.tell(out);
    }

    /// Ends it, and with it whatever it has; returns once the servers have said so, or after a
    /// while.
    pub(crate) async fn close(&self) {
        self.leave();
        let mut state = self.state.subscribe();
        let over = async {
            let _ = state
                .wait_for(|state| matches!(state, State::Over(_)))
                .await;
        };
        let limit = self.settings.limit();
        let _ = until(&*self.settings.context.clock, limit, over).await;
    }

    /// Begins to end it.
    pub(crate) fn leave(&self) {
        self.closing.send_replace(Closing::Politely);
    }

    /// Stops without a word to the servers, as a process that dies: what it has lapses.
    pub(crate) fn abandon(&self) {
        self.closing.send_if_modified(|closing| {
            let open = *closing == Closing::No;
            if open {
                *closing = Closing::Silently;
            }
            open
        });
    }
}

/// How a session is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    /// The servers are told, and delete what it has.
    Politely,
    Silently,
}

/// Takes what a server sends of itself.
struct Ear(Weak<Session>);

impl Listener for Ear {
    fn event(&self, event: Event) {
        if let Some(session) = self.0.upgrade() {
            session.happened(&event);
        }
    }
}
