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
    backoff::Backoff, config::TransportConfig, connect_error::ConnectError, connection::Connection,
    replica_ack::ReplicaAckQueue, script_call::CallError, topology::Topology,
};
use crate::address::Endpoint;

/// Where a server's connection stands.
#[derive(Clone, Debug)]
pub(super) enum NodeState {
    /// The first try has not ended.
    Fresh,
    /// Connected, checked, and where it is our turn, subscribed.
    Up(Arc<Connection>),
    /// Not connected, and why.
    Down(ConnectError),
    /// No longer wanted.
    Gone,
}

/// One server, or whichever server is the master now.
#[derive(Debug)]
pub(super) struct Node {
    /// In a cluster, where it is. Else it is looked up each time.
    pub(super) place: Option<Endpoint>,
    state: watch::Sender<NodeState>,
    replicas: Mutex<Option<ReplicaAckQueue>>,
    /// When a request was last sent there because another server said so.
    touched: Mutex<Option<Instant>>,
}

impl Node {
    pub(super) fn new(place: Option<Endpoint>) -> Arc<Self> {
        Arc::new(Self {
            place,
            state: watch::Sender::new(NodeState::Fresh),
            replicas: Mutex::new(None),
            touched: Mutex::new(None),
        })
    }

    pub(super) fn state(&self) -> NodeState {
        self.state.borrow().clone()
    }

    /// The connection, if there is one.
    pub(super) fn up(&self) -> Option<Arc<Connection>> {
        match &*self.state.borrow() {
            NodeState::Up(conn) => Some(Arc::clone(conn)),
            NodeState::Fresh | NodeState::Down(_) | NodeState::Gone => None,
        }
    }

    /// The connection, or at once why there is none. Only for the very first try it waits.
    pub(super) async fn conn(
        &self,
        settings: &TransportConfig,
    ) -> Result<Arc<Connection>, CallError> {
        if let Some(conn) = self.up() {
            return Ok(conn);
        }
        match self.settled(settings).await {
            NodeState::Up(conn) => Ok(conn),
            NodeState::Down(trouble) => Err(unsent(trouble.detail)),
            NodeState::Fresh => Err(unsent("it is being connected")),
            NodeState::Gone => Err(unsent("its connection was closed")),
        }
    }

    /// What became of the first try, in the time of a request.
    pub(super) async fn settled(&self, settings: &TransportConfig) -> NodeState {
        let mut state = self.state.subscribe();
        let tried = state.wait_for(|state| !matches!(state, NodeState::Fresh));
        let _ = timeout(settings.limit, tried).await;
        self.state()
    }

    /// The way for requests that wait for replicas.
    pub(super) fn replicas(&self, settings: &Arc<TransportConfig>) -> ReplicaAckQueue {
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let way = replicas.get_or_insert_with(|| ReplicaAckQueue::start(Arc::clone(settings)));
        way.clone()
    }

    /// It is no longer wanted.
    pub(super) fn part(&self) {
        self.set(NodeState::Gone);
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        *replicas = None;
    }

    fn set(&self, state: NodeState) {
        self.state.send_if_modified(|now| {
            // What is gone stays so.
            let change = !matches!(now, NodeState::Gone);
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
        let _ = state
            .wait_for(|state| matches!(state, NodeState::Gone))
            .await;
    }
}

/// Nothing was sent.
pub(super) fn unsent(why: impl Into<String>) -> CallError {
    CallError::Refused {
        code: None,
        detail: why.into(),
    }
}

/// Keeps a node connected until it is no longer wanted.
pub(super) async fn supervise(core: Arc<Topology>, node: Arc<Node>) {
    let gone = node.gone();
    tokio::select! {
        () = gone => {}
        () = keep(&core, &node) => {}
    }
}

async fn keep(core: &Topology, node: &Arc<Node>) {
    let mut backoff = Backoff::default();
    let mut was_up = false;
    loop {
        let conn = connect(core, node, &mut backoff, was_up).await;
        was_up = true;
        let since = Instant::now();
        core.until_ended(&conn).await;
        backoff.record_uptime(since.elapsed());
        let why = conn.ending(&core.settings);
        drop(conn);
        if !core.is_open() {
            return;
        }
        tracing::warn!(backend = "redis", "{why}; connecting again");
        node.set(NodeState::Down(ConnectError::new(
            ErrorKind::Unavailable,
            why,
        )));
        core.tell_down();
        core.lost().await;
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Connects it, however long that takes. Tells so if there was a gap.
async fn connect(
    core: &Topology,
    node: &Arc<Node>,
    backoff: &mut Backoff,
    was_up: bool,
) -> Arc<Connection> {
    let mut told: Option<String> = None;
    loop {
        match core.connect(node).await {
            Ok(conn) => {
                node.set(NodeState::Up(Arc::clone(&conn)));
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
                node.set(NodeState::Down(trouble));
                core.failed();
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
