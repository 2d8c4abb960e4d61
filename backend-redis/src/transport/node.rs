//! One server that is kept connected: the state of its connection, and the task that supervises it.

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

/// The state of a node's connection.
#[derive(Clone, Debug)]
pub(super) enum NodeState {
    /// The first connection attempt has not ended.
    Connecting,
    /// Connected and checked, and subscribed if this node carries the inbox.
    Connected(Arc<Connection>),
    /// Not connected, with the reason.
    Disconnected(ConnectError),
    /// No longer needed.
    Retired,
}

/// One server, or the current master.
#[derive(Debug)]
pub(super) struct Node {
    /// The fixed endpoint of a cluster node. Otherwise the endpoint is determined at each
    /// connection attempt.
    pub(super) endpoint: Option<Endpoint>,
    state: watch::Sender<NodeState>,
    replica_acks: Mutex<Option<ReplicaAckQueue>>,
    /// When a redirection last sent a request to this node.
    last_redirect: Mutex<Option<Instant>>,
}

impl Node {
    pub(super) fn new(endpoint: Option<Endpoint>) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            state: watch::Sender::new(NodeState::Connecting),
            replica_acks: Mutex::new(None),
            last_redirect: Mutex::new(None),
        })
    }

    pub(super) fn state(&self) -> NodeState {
        self.state.borrow().clone()
    }

    /// The connection, if there is one.
    pub(super) fn connection(&self) -> Option<Arc<Connection>> {
        match &*self.state.borrow() {
            NodeState::Connected(conn) => Some(Arc::clone(conn)),
            NodeState::Connecting | NodeState::Disconnected(_) | NodeState::Retired => None,
        }
    }

    /// The connection, or immediately the reason for its absence. Waits only for the first
    /// connection attempt.
    pub(super) async fn ready_connection(
        &self,
        config: &TransportConfig,
    ) -> Result<Arc<Connection>, CallError> {
        if let Some(conn) = self.connection() {
            return Ok(conn);
        }
        match self.wait_first_connect(config).await {
            NodeState::Connected(conn) => Ok(conn),
            NodeState::Disconnected(error) => Err(not_sent(error.detail)),
            NodeState::Connecting => Err(not_sent("the connection is still being opened")),
            NodeState::Retired => Err(not_sent("the connection was closed")),
        }
    }

    /// The state after the first connection attempt, or after the request timeout.
    pub(super) async fn wait_first_connect(&self, config: &TransportConfig) -> NodeState {
        let mut state = self.state.subscribe();
        let first_connect = state.wait_for(|state| !matches!(state, NodeState::Connecting));
        let _ = timeout(config.request_timeout, first_connect).await;
        self.state()
    }

    /// The queue of requests that wait for replicas.
    pub(super) fn replica_acks(&self, config: &Arc<TransportConfig>) -> ReplicaAckQueue {
        let mut replica_acks = self
            .replica_acks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let queue = replica_acks.get_or_insert_with(|| ReplicaAckQueue::start(Arc::clone(config)));
        queue.clone()
    }

    /// Marks the node as no longer needed.
    pub(super) fn retire(&self) {
        self.set(NodeState::Retired);
        let mut replica_acks = self
            .replica_acks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *replica_acks = None;
    }

    fn set(&self, state: NodeState) {
        self.state.send_if_modified(|now| {
            // A retired node stays retired.
            let change = !matches!(now, NodeState::Retired);
            if change {
                *now = state;
            }
            change
        });
    }

    pub(super) fn mark_redirect_target(&self) {
        let mut last_redirect = self
            .last_redirect
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last_redirect = Some(Instant::now());
    }

    pub(super) fn was_redirect_target_within(&self, span: Duration) -> bool {
        let last_redirect = self
            .last_redirect
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last_redirect.is_some_and(|at| at.elapsed() < span)
    }

    async fn retired(&self) {
        let mut state = self.state.subscribe();
        let _ = state
            .wait_for(|state| matches!(state, NodeState::Retired))
            .await;
    }
}

/// The error for a call that was not sent.
pub(super) fn not_sent(reason: impl Into<String>) -> CallError {
    CallError::NotExecuted {
        code: None,
        detail: reason.into(),
    }
}

/// Keeps a node connected until it is retired.
pub(super) async fn supervise(topology: Arc<Topology>, node: Arc<Node>) {
    let retired = node.retired();
    tokio::select! {
        () = retired => {}
        () = keep_connected(&topology, &node) => {}
    }
}

async fn keep_connected(topology: &Topology, node: &Arc<Node>) {
    let mut backoff = Backoff::default();
    let mut was_connected = false;
    loop {
        let conn = connect_with_backoff(topology, node, &mut backoff, was_connected).await;
        was_connected = true;
        let since = Instant::now();
        topology.until_closed(&conn).await;
        backoff.record_uptime(since.elapsed());
        let reason = conn.close_reason(&topology.config);
        drop(conn);
        if !topology.is_open() {
            return;
        }
        tracing::warn!(backend = "redis", "{reason}; reconnecting");
        node.set(NodeState::Disconnected(ConnectError::new(
            ErrorKind::Unavailable,
            reason,
        )));
        topology.notify_disconnected();
        topology.connection_lost().await;
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Connects the node, however long that takes. Notifies the listener if the connection was
/// interrupted.
async fn connect_with_backoff(
    topology: &Topology,
    node: &Arc<Node>,
    backoff: &mut Backoff,
    was_connected: bool,
) -> Arc<Connection> {
    let mut reported: Option<String> = None;
    loop {
        match topology.connect(node).await {
            Ok(conn) => {
                node.set(NodeState::Connected(Arc::clone(&conn)));
                if was_connected || reported.is_some() {
                    tracing::info!(backend = "redis", server = %conn.endpoint, "reconnected");
                    topology.notify_reconnected();
                }
                return conn;
            }
            Err(error) => {
                // Each reason is logged once, because an outage may take a thousand attempts.
                if reported.as_ref() != Some(&error.detail) {
                    if topology.is_open() {
                        tracing::warn!(backend = "redis", "cannot connect: {}", error.detail);
                    }
                    reported = Some(error.detail.clone());
                }
                node.set(NodeState::Disconnected(error));
                topology.connect_failed();
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
