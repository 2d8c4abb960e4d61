//! The way to the servers: one of them at a time, and another one as soon as it does not answer.
//!
//! The client library spreads requests over all servers and lets those hang that meet one which has
//! stopped. So each server has a connection of its own here, and the choice is ours: a request that is
//! not answered for a while moves those that follow to the next server, and is itself waited for on.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use etcd_client::Client;
use tenure_core::{
    backend::{BackendEvent, EventSink},
    error::ErrorKind,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time,
};

use crate::{address::Target, config::Options, error::Fault, keepalive_validity::ServerVersion};

/// Not before that is a server under suspicion.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(250);
const LONGEST_PATIENCE: Duration = Duration::from_secs(1);

/// So many requests are under way to a server at once. More would only wait there, for longer than a
/// server that works may take.
const WINDOW: usize = 256;

/// The servers of a store.
pub(crate) struct Link {
    target: Target,
    options: Options,
    events: EventSink,
    /// After that nobody waits for an answer any more.
    pub(crate) limit: Duration,
    /// In milliseconds, as the next one.
    patience: AtomicU64,
    longest_patience: AtomicU64,
    /// How often it was doubled, because nothing was answered in time.
    doubled: AtomicU32,
    state: Mutex<State>,
    opening: tokio::sync::Mutex<()>,
    moved: watch::Sender<u64>,
}

struct State {
    /// Which server is asked.
    index: usize,
    /// Rises whenever another connection is to be used.
    generation: u64,
    member: Option<Member>,
    /// Whether the last word to the core was that the connection stands.
    up: bool,
    closed: bool,
}

/// A connection to one server.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) client: Arc<Client>,
    pub(crate) generation: u64,
    /// Whether its answers to keep-alives are believed as they are.
    pub(crate) trusted: bool,
    /// How many more requests may be under way to it.
    window: Arc<Semaphore>,
}

impl Link {
    pub(crate) fn new(
        target: Target,
        options: Options,
        events: EventSink,
        limit: Duration,
    ) -> Self {
        let link = Self {
            target,
            options,
            events,
            limit,
            patience: AtomicU64::new(0),
            longest_patience: AtomicU64::new(0),
            doubled: AtomicU32::new(0),
            state: Mutex::new(State {
                // So that many clients do not all ask the same server.
                index: 0,
                generation: 1,
                member: None,
                up: true,
                closed: false,
            }),
            opening: tokio::sync::Mutex::default(),
            moved: watch::Sender::new(1),
        };
        link.lock().index = fastrand::usize(..link.target.len());
        link.set_patience(None);
        link
    }

    /// Holds the patience to the shortest TTL in use: a renewal must reach another server in time.
    pub(crate) fn set_patience(&self, shortest: Option<Duration>) {
        let longest = LONGEST_PATIENCE.min(self.limit / 3).max(SHORTEST_PATIENCE);
        let patience = shortest.map_or(longest, |ttl| (ttl / 6).clamp(SHORTEST_PATIENCE, longest));
        let most = self.limit / 2;
        let most = shortest.map_or(most, |ttl| most.min(ttl / 3)).max(patience);
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(1_000);
        self.patience.store(millis(patience), Ordering::Relaxed);
        self.longest_patience.store(millis(most), Ordering::Relaxed);
    }

    /// So long is an answer waited for before another server is asked. Where none answers in that time
    /// it is doubled: they may all be slow, and every connection that is made anew takes longer still.
    pub(crate) fn patience(&self) -> Duration {
        let millis = self.patience.load(Ordering::Relaxed) << self.doubled.load(Ordering::Relaxed);
        Duration::from_millis(millis.min(self.longest_patience.load(Ordering::Relaxed)))
    }

    fn first_patience(&self) -> Duration {
        Duration::from_millis(self.patience.load(Ordering::Relaxed))
    }

    /// Word of each move to another connection.
    pub(crate) fn moves(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    pub(crate) fn is_current(&self, member: &Member) -> bool {
        self.lock().generation == member.generation
    }

    /// Ends it: from now on nothing is sent.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.member = None;
        drop(state);
        self.moved.send_replace(u64::MAX);
    }

    /// The connection in use; made if there is none. Tries each server once.
    pub(crate) async fn member(&self) -> Result<Member, Fault> {
        if let Some(member) = self.current()? {
            return Ok(member);
        }
        // Rare, and large.
        Box::pin(self.reach()).await
    }

    async fn reach(&self) -> Result<Member, Fault> {
        let _one_at_a_time = self.opening.lock().await;
        let mut last = Fault::silence();
        for _ in 0..self.target.len() {
            if let Some(member) = self.current()? {
                return Ok(member);
            }
            let (index, generation) = {
                let state = self.lock();
                (state.index, state.generation)
            };
            let limit = if self.target.len() > 1 {
                self.options.connect_timeout.min(2 * self.first_patience())
            } else {
                self.options.connect_timeout
            };
            let opened = time::timeout(limit, self.open(index, generation)).await;
            match opened.unwrap_or_else(|_| Err(Fault::silence())) {
                Ok(member) => {
                    let mut state = self.lock();
                    if state.generation == generation && !state.closed {
                        state.member = Some(member.clone());
                        return Ok(member);
                    }
                }
                Err(fault) => {
                    tracing::debug!(
                        endpoint = self.target.endpoint(index),
                        ?fault,
                        "no connection"
                    );
                    self.suspect(generation);
                    last = fault.at(&self.target.endpoint(index));
                }
            }
        }
        // Nothing of the request that wanted it was sent.
        Err(match last {
            Fault::Unanswered { source, .. } => Fault::Unsent {
                kind: ErrorKind::Unavailable,
                detail: format!("no server of {} answers", self.target),
                source,
            },
            Fault::Refused {
                kind,
                detail,
                elsewhere: _,
            } => Fault::Unsent {
                kind,
                detail,
                source: None,
            },
            other => other,
        })
    }

    async fn open(&self, index: usize, generation: u64) -> Result<Member, Fault> {
        let config = |error: tenure_core::error::Error| Fault::Unsent {
            kind: error.kind(),
            detail: error.detail().unwrap_or_default().to_owned(),
            source: None,
        };
        let options = self.options.connection(&self.target).map_err(config)?;
        let endpoint = self.target.endpoint(index);
        let client = Client::connect([endpoint], Some(options)).await?;
        // Also shows that the server is there and knows of a leader, before anything depends on it.
        let status = client.maintenance_client().status().await?;
        let version = ServerVersion::parse(status.version());
        if version.is_some_and(|version| version < ServerVersion::MIN_SUPPORTED) {
            return Err(Fault::Unsent {
                kind: ErrorKind::Unsupported,
                detail: format!("etcd {} is too old; 3.4 is the oldest", status.version()),
                source: None,
            });
        }
        let trust = self.options.keepalive_trusted;
        Ok(Member {
            client: Arc::new(client),
            generation,
            trusted: version.is_some_and(|version| version.keepalives_are_trusted(trust)),
            window: Arc::new(Semaphore::new(WINDOW)),
        })
    }

    /// Asks the server in use, and waits so long for its answer. One that cannot be reached, or refuses because of its own state, is
    /// passed over: the request has had no effect there.
    pub(crate) async fn call<T, R, F>(
        &self,
        limit: Duration,
        request: R,
        ask: impl Fn(Member, R) -> F,
    ) -> Result<T, Fault>
    where
        R: Clone,
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut tries = self.target.len();
        loop {
            let member = self.member().await?;
            // The library's futures are large, and this one becomes a part of many others.
            let asking = Box::pin(ask(member.clone(), request.clone()));
            match self.patiently(&member, limit, asking).await {
                Err(fault) if fault.may_go_elsewhere() && tries > 0 => tries -= 1,
                answer => return answer,
            }
        }
    }

    /// Asks one server after the other until one answers: for requests that do no harm if they are
    /// carried out more than once.
    pub(crate) async fn ask_around<T, R, F>(
        &self,
        request: R,
        ask: impl Fn(Member, R) -> F,
    ) -> Result<T, Fault>
    where
        R: Clone,
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut tries = self.target.len();
        loop {
            let Some((member, _window)) = self.enter().await? else {
                continue;
            };
            let asking = Box::pin(ask(member.clone(), request.clone()));
            let limit = if tries > 0 {
                self.patience()
            } else {
                self.limit
            };
            match self.patiently(&member, limit, asking).await {
                Err(fault) if fault.blames_server() && tries > 0 => tries -= 1,
                answer => return answer,
            }
        }
    }

    /// The server in use, and the right to ask it something. `None` if while that was waited for
    /// another one has come into use.
    async fn enter(&self) -> Result<Option<(Member, OwnedSemaphorePermit)>, Fault> {
        let member = self.member().await?;
        if let Ok(permit) = Arc::clone(&member.window).try_acquire_owned() {
            return Ok(Some((member, permit)));
        }
        let mut moves = self.moves();
        let moved = moves.wait_for(|generation| *generation != member.generation);
        tokio::select! {
            permit = Arc::clone(&member.window).acquire_owned() => {
                Ok(permit.ok().map(|permit| (member, permit)))
            }
            _ = moved => Ok(None),
        }
    }

    /// Waits so long for an answer of this server, and puts it under suspicion if that takes long.
    pub(crate) async fn patiently<T>(
        &self,
        member: &Member,
        limit: Duration,
        mut asking: impl Future<Output = Result<T, etcd_client::Error>> + Unpin,
    ) -> Result<T, Fault> {
        let patience = self.patience();
        let began = time::Instant::now();
        let answer = match time::timeout(patience, &mut asking).await {
            Ok(answer) => {
                if began.elapsed() < self.first_patience() {
                    self.doubled.store(0, Ordering::Relaxed);
                }
                Some(answer)
            }
            Err(_) => {
                // Many may wait for the same server: it counts once.
                if self.is_current(member) {
                    let doubled = self.doubled.load(Ordering::Relaxed);
                    self.doubled.store((doubled + 1).min(3), Ordering::Relaxed);
                }
                self.suspect(member.generation);
                let rest = limit.saturating_sub(patience);
                time::timeout(rest, asking).await.ok()
            }
        };
        match answer {
            Some(Ok(answer)) => {
                self.alive(member.generation);
                Ok(answer)
            }
            Some(Err(error)) => {
                let fault = Fault::from(error);
                if fault.blames_server() {
                    self.suspect(member.generation);
                } else {
                    self.alive(member.generation);
                }
                Err(fault)
            }
            None => Err(Fault::silence()),
        }
    }

    /// The server of this generation does not answer: what follows goes to the next one.
    pub(crate) fn suspect(&self, generation: u64) {
        let mut state = self.lock();
        if state.generation != generation || state.closed {
            return;
        }
        state.generation += 1;
        state.index = (state.index + 1) % self.target.len();
        state.member = None;
        let was_up = std::mem::replace(&mut state.up, false);
        let generation = state.generation;
        drop(state);
        self.moved.send_replace(generation);
        if was_up {
            self.events.send(BackendEvent::Suspect);
        }
    }

    /// The server of this generation has answered.
    pub(crate) fn alive(&self, generation: u64) {
        let mut state = self.lock();
        if state.up || state.generation != generation || state.closed {
            return;
        }
        state.up = true;
        drop(state);
        self.events.send(BackendEvent::Reconnected);
    }

    fn current(&self) -> Result<Option<Member>, Fault> {
        let state = self.lock();
        if state.closed {
            return Err(Fault::Unsent {
                kind: ErrorKind::Closed,
                detail: "it was shut down".to_owned(),
                source: None,
            });
        }
        Ok(state.member.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("generation", &self.generation)
            .field("trusted", &self.trusted)
            .finish_non_exhaustive()
    }
}
