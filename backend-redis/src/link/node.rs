//! One server that is kept connected: what its connection is now, and who watches it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tenure_core::error::ErrorKind;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    backoff::Backoff, call::Fault, conn::Conn, core::Core, replicas::Replicator,
    settings::Settings, target::Place, trouble::Trouble,
};

/// Where a server's connection stands.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// The first try has not ended.
    Fresh,
    /// Connected, checked, and where it is our turn, subscribed.
    Up(Arc<Conn>),
    /// Not connected, and why.
    Down(Trouble),
    /// No longer wanted.
    Gone,
}

/// One server, or whichever server is the master now.
#[derive(Debug)]
pub(super) struct Node {
    /// In a cluster, where it is. Else it is looked up each time.
    pub(super) place: Option<Place>,
    state: watch::Sender<State>,
    replicas: Mutex<Option<Replicator>>,
    /// When a request was last sent there because another server said so.
    touched: Mutex<Option<Instant>>,
}

impl Node {
    pub(super) fn new(place: Option<Place>) -> Arc<Self> {
        Arc::new(Self {
            place,
            state: watch::Sender::new(State::Fresh),
            replicas: Mutex::new(None),
            touched: Mutex::new(None),
        })
    }

    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The connection, if there is one.
    pub(super) fn up(&self) -> Option<Arc<Conn>> {
        match &*self.state.borrow() {
            State::Up(conn) => Some(Arc::clone(conn)),
            State::Fresh | State::Down(_) | State::Gone => None,
        }
    }

    /// The connection, or at once why there is none. Only for the very first try it waits.
    pub(super) async fn conn(&self, settings: &Settings) -> Result<Arc<Conn>, Fault> {
        if let Some(conn) = self.up() {
            return Ok(conn);
        }
        match self.settled(settings).await {
            State::Up(conn) => Ok(conn),
            State::Down(trouble) => Err(unsent(trouble.detail)),
            State::Fresh => Err(unsent("it is being connected")),
            State::Gone => Err(unsent("its connection was closed")),
        }
    }

    /// What became of the first try, in the time of a request.
    pub(super) async fn settled(&self, settings: &Settings) -> State {
        let mut state = self.state.subscribe();
        let tried = state.wait_for(|state| !matches!(state, State::Fresh));
        let _ = timeout(settings.limit, tried).await;
        self.state()
    }

    /// The way for requests that wait for replicas.
    pub(super) fn replicas(&self, settings: &Arc<Settings>) -> Replicator {
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let way = replicas.get_or_insert_with(|| Replicator::start(Arc::clone(settings)));
        way.clone()
    }

    /// It is no longer wanted.
    pub(super) fn part(&self) {
        self.set(State::Gone);
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        *replicas = None;
    }

    fn set(&self, state: State) {
        self.state.send_if_modified(|now| {
            // What is gone stays so.
            let change = !matches!(now, State::Gone);
            if change {
                *now = state;
            }
            change
        });
    }

    pub(super) fn touch(&self) {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        *touched = Some(Instant::now());
    }

    pub(super) fn touched_within(&self, span: Duration) -> bool {
        let touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.is_some_and(|at| at.elapsed() < span)
    }

    async fn gone(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| matches!(state, State::Gone)).await;
    }
}

/// Nothing was sent.
pub(super) fn unsent(why: impl Into<String>) -> Fault {
    Fault::Refused {
        code: None,
        detail: why.into(),
    }
}

/// Keeps a node connected until it is no longer wanted.
pub(super) async fn supervise(core: Arc<Core>, node: Arc<Node>) {
    let gone = node.gone();
    tokio::select! {
        () = gone => {}
        () = keep(&core, &node) => {}
    }
}

async fn keep(core: &Core, node: &Arc<Node>) {
    let mut backoff = Backoff::default();
    let mut was_up = false;
    loop {
        let conn = connect(core, node, &mut backoff, was_up).await;
        was_up = true;
        let since = Instant::now();
        core.until_ended(&conn).await;
        backoff.lasted(since.elapsed());
        let why = conn.ending(&core.settings);
        drop(conn);
        if !core.is_open() {
            return;
        }
        tracing::warn!(backend = "redis", "{why}; connecting again");
        node.set(State::Down(Trouble::new(ErrorKind::Unavailable, why)));
        core.tell_down();
        core.lost().await;
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Connects it, however long that takes. Tells so if there was a gap.
async fn connect(core: &Core, node: &Arc<Node>, backoff: &mut Backoff, was_up: bool) -> Arc<Conn> {
    let mut told: Option<String> = None;
    loop {
        match core.connect(node).await {
            Ok(conn) => {
                node.set(State::Up(Arc::clone(&conn)));
                if was_up || told.is_some() {
                    tracing::info!(backend = "redis", server = %conn.place, "connected again");
                    core.tell_up();
                }
                return conn;
            }
            Err(trouble) => {
                // Once for each reason: an outage may take a thousand tries.
                if told.as_ref() != Some(&trouble.detail) {
                    if core.is_open() {
                        tracing::warn!(backend = "redis", "not connected: {}", trouble.detail);
                    }
                    told = Some(trouble.detail.clone());
                }
                node.set(State::Down(trouble));
                core.failed();
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
}
