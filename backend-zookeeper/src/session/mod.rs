//! A session, which all locks of one client with the same TTL share. It outlives its connections.

pub(crate) mod attempts;
mod heartbeat;
pub(crate) mod pool;
pub(crate) mod proof;
mod task;
pub(crate) mod time;
mod watches;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tenure_core::{
    backend::{BackendEvent, Context},
    clock::Instant,
    driver::ConnectError,
    error::{Error, ErrorKind},
    id::AttemptId,
    loss::LossReason,
};
use tokio::sync::watch;

use self::{
    attempts::{Attempt, Attempts},
    time::until,
};
use crate::{address::Address, config::Options, error::error, transport::Connection};

/// How long a request waits for a connection that was lost. As a rule another server takes over in
/// this time.
const RECONNECT_WAIT: Duration = Duration::from_secs(1);

/// The data that all sessions of one client share.
#[derive(Debug)]
pub(crate) struct DriverConfig {
    pub(crate) address: Address,
    pub(crate) options: Options,
    pub(crate) context: Context,
}

impl DriverConfig {
    pub(crate) fn now(&self) -> Instant {
        self.context.clock.now()
    }

    /// The moment at which a request that begins now is given up.
    pub(crate) fn request_limit(&self) -> Instant {
        self.now() + self.context.request_timeout
    }
}

/// Whether a session is connected.
#[derive(Clone, Debug)]
enum State {
    /// The first attempt to connect to every server has not ended.
    New,
    Connected(Arc<Connection>),
    /// Not connected, and why.
    Disconnected(ConnectError),
    /// Ended; with the reason if it never began.
    Ended(Option<ConnectError>),
}

/// The purpose of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Locks: its life is proved, and its time-out must be the requested TTL.
    Locks,
    /// Reading the state of locks, with any time-out.
    Reads,
}

/// The operations that read with a session.
#[derive(Debug, Default)]
struct Reads {
    running: usize,
    /// Whether the session is to end after the last of them.
    last: bool,
}

/// Keeps a session for an operation that reads with it.
#[derive(Debug)]
pub(crate) struct ReadPermit(Arc<Session>);

impl ReadPermit {
    pub(crate) fn session(&self) -> &Session {
        &self.0
    }
}

impl Drop for ReadPermit {
    fn drop(&mut self) {
        let mut reads = self.0.reads();
        reads.running -= 1;
        if reads.last && reads.running == 0 {
            self.0.begin_close();
        }
    }
}

/// How a session is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    /// The servers are asked to end the session, and delete its nodes.
    Close,
    /// Nothing is sent to the servers, as when the process dies: the session expires.
    Abandon,
}

/// A session.
pub(crate) struct Session {
    pub(crate) config: Arc<DriverConfig>,
    /// The requested time-out; for locks it is the TTL.
    pub(crate) ttl: Duration,
    purpose: Purpose,
    state: watch::Sender<State>,
    /// The newest proof.
    proved: watch::Sender<Option<Instant>>,
    /// The number of the connection on which every node was looked up.
    checked: watch::Sender<u64>,
    /// The time-out that the servers granted.
    granted: watch::Sender<Duration>,
    attempts: Mutex<Attempts>,
    closing: watch::Sender<Closing>,
    reads: Mutex<Reads>,
    /// When the core last asked for something that needs the session.
    used: watch::Sender<Instant>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("ttl", &self.ttl)
            .field("purpose", &self.purpose)
            .field("attempts", &self.attempts().len())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Begins a session. Does not wait for a connection.
    pub(crate) fn begin(config: &Arc<DriverConfig>, ttl: Duration, purpose: Purpose) -> Arc<Self> {
        let session = Arc::new(Self {
            config: Arc::clone(config),
            ttl,
            purpose,
            state: watch::Sender::new(State::New),
            proved: watch::Sender::new(None),
            checked: watch::Sender::new(0),
            granted: watch::Sender::new(Duration::ZERO),
            attempts: Mutex::default(),
            closing: watch::Sender::new(Closing::No),
            reads: Mutex::default(),
            used: watch::Sender::new(config.now()),
        });
        tokio::spawn(task::run(Arc::clone(&session)));
        session
    }

    pub(crate) fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reads(&self) -> MutexGuard<'_, Reads> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation that reads with this session.
    pub(crate) fn begin_read(self: &Arc<Self>) -> ReadPermit {
        self.reads().running += 1;
        ReadPermit(Arc::clone(self))
    }

    /// Ends the session after the operations that read with it.
    pub(crate) fn close_after_reads(&self) {
        let mut reads = self.reads();
        reads.last = true;
        if reads.running == 0 {
            self.begin_close();
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        matches!(*self.state.borrow(), State::Ended(_))
    }

    /// The time-out that the servers granted; zero before the first connection.
    pub(crate) fn granted(&self) -> Duration {
        *self.granted.borrow()
    }

    /// The present connection, if there is one.
    pub(crate) fn connected(&self) -> Option<Arc<Connection>> {
        match &*self.state.borrow() {
            State::Connected(connection) if !connection.is_lost() => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    /// The connection. Waits for one, but not longer than until `limit`. If this fails, no request
    /// was sent.
    pub(crate) async fn connection(
        &self,
        operation: &'static str,
        limit: Instant,
    ) -> Result<Arc<Connection>, Error> {
        if let Some(connection) = self.connected() {
            return Ok(connection);
        }
        let mut state = self.state.subscribe();
        let new = matches!(*state.borrow(), State::New);
        let limit = if new {
            limit
        } else {
            limit.min(self.config.now() + RECONNECT_WAIT)
        };
        let decided = |state: &State| match state {
            State::Connected(connection) => !connection.is_lost(),
            State::Ended(_) => true,
            State::Disconnected(error) => new || error.kind != ErrorKind::Unavailable,
            State::New => false,
        };
        let waiting = async {
            let _ = state.wait_for(decided).await;
        };
        let _ = until(&*self.config.context.clock, limit, waiting).await;
        let now = state.borrow().clone();
        match now {
            State::Connected(connection) if !connection.is_lost() => Ok(connection),
            State::Disconnected(reason) | State::Ended(Some(reason)) => {
                Err(reason.into_error("zookeeper", operation))
            }
            State::Ended(None) => Err(error(
                ErrorKind::Unavailable,
                operation,
                "the session has ended; the next request begins a new one",
            )),
            State::New | State::Connected(_) => Err(error(
                ErrorKind::Unavailable,
                operation,
                "no server could be reached yet",
            )),
        }
    }

    /// Notes that the core asked for something that needs the session: an enqueue, a renewal, a
    /// report.
    pub(crate) fn touch(&self) {
        self.used.send_replace(self.config.now());
    }

    /// Whether to keep the session alive. A session that the core no longer uses expires as its
    /// locks would: the session does not decide when to renew. Two lost renewals may take up to
    /// half a TTL. So the session lives for half a TTL by heartbeats, and for one TTL more without
    /// them.
    pub(crate) fn is_in_use(&self) -> bool {
        let idle = self.config.now().since(*self.used.borrow());
        self.purpose == Purpose::Reads || idle < self.ttl / 2 || self.attempts().len() == 0
    }

    /// Returns once the session is to be kept alive again.
    async fn until_in_use(&self) {
        let mut used = self.used.subscribe();
        while !self.is_in_use() {
            if used.changed().await.is_err() {
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

    /// The newest proof if it is new enough for a grant: half of the TTL is left.
    pub(crate) fn fresh_proof(&self) -> Option<Instant> {
        let oldest = self.config.now().before(self.ttl / 2);
        self.proved().filter(|from| *from > oldest)
    }

    /// Waits for a proof that is new enough for a grant, as long as the connection lasts.
    pub(crate) async fn wait_fresh(&self, connection: &Connection) -> Option<Instant> {
        loop {
            if let Some(from) = self.fresh_proof() {
                return Some(from);
            }
            self.wait_proof(self.proved(), connection).await?;
        }
    }

    /// Waits for a proof that is newer than `last`, as long as the connection lasts.
    pub(crate) async fn wait_proof(
        &self,
        last: Option<Instant>,
        connection: &Connection,
    ) -> Option<Instant> {
        let mut proved = self.proved.subscribe();
        tokio::select! {
            newer = proved.wait_for(|proved| *proved > last) => newer.ok().and_then(|from| *from),
            () = connection.lost() => None,
        }
    }

    /// Waits until every node was looked up on this connection, as long as it lasts.
    pub(crate) async fn wait_checked(&self, connection: &Connection) -> bool {
        let mut checked = self.checked.subscribe();
        tokio::select! {
            result = checked.wait_for(|number| *number >= connection.number) => result.is_ok(),
            () = connection.lost() => false,
        }
    }

    /// Hands events to the core.
    pub(crate) fn emit(&self, events: impl IntoIterator<Item = BackendEvent>) {
        for event in events {
            self.config.context.events.send(event);
        }
    }

    /// Forgets an attempt of which nothing is left in the store.
    pub(crate) fn forget(&self, attempt: AttemptId) {
        self.attempts().forget(attempt);
        self.note_checked();
    }

    /// This client begins to remove an attempt: from now on nothing about it is a loss. Returns what
    /// `read` makes of the attempt at that moment; an enqueue under way may forget it right afterwards.
    pub(crate) fn begin_removal<T>(
        &self,
        attempt: AttemptId,
        read: impl FnOnce(&Attempt) -> T,
    ) -> Option<T> {
        let known = {
            let mut attempts = self.attempts();
            attempts.begin_removal(attempt);
            attempts.get(attempt).map(read)
        };
        self.note_checked();
        known
    }

    /// Publishes, once it is true, that every node was looked up on the present connection.
    fn note_checked(&self) {
        let number = self.attempts().checked_on();
        let newly = self.checked.send_if_modified(|checked| {
            let newer = *checked < number;
            *checked = (*checked).max(number);
            newer
        });
        if newly && number > 1 {
            self.emit([BackendEvent::Reconnected]);
        }
    }

    fn end(&self, reason: Option<ConnectError>, loss: LossReason) {
        self.state.send_replace(State::Ended(reason));
        let events = self.attempts().end(loss);
        self.emit(events);
    }

    /// Ends the session and with it all its locks. Returns once the servers have confirmed it, or
    /// after the time limit of a request.
    pub(crate) async fn close(&self) {
        self.begin_close();
        let mut state = self.state.subscribe();
        let ended = async {
            let _ = state
                .wait_for(|state| matches!(state, State::Ended(_)))
                .await;
        };
        let limit = self.config.request_limit();
        let _ = until(&*self.config.context.clock, limit, ended).await;
    }

    /// Begins to end the session.
    pub(crate) fn begin_close(&self) {
        self.closing.send_replace(Closing::Close);
    }

    /// Stops without a message to the servers, like a process that dies: the session expires.
    pub(crate) fn abandon(&self) {
        self.closing.send_if_modified(|closing| {
            let open = *closing == Closing::No;
            if open {
                *closing = Closing::Abandon;
            }
            open
        });
    }
}
