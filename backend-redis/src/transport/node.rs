//! One server that is kept connected, and the state of its connection.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use tenure_core::driver::ConnectError;

use super::{
    batch::BatchedConnection, config::TransportConfig, connection::Connection,
    replica_ack::ReplicaAckQueue, script_call::CallError,
};
use crate::address::Endpoint;

/// The state of a node's connection.
#[derive(Clone, Debug)]
pub(super) enum NodeState {
    /// The first connection attempt has not ended.
    Connecting,
    /// Connected and checked, and subscribed if this node carries the inbox.
    Connected(Arc<BatchedConnection>),
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
            NodeState::Connected(batched) => Some(Arc::clone(&batched.conn)),
            NodeState::Connecting | NodeState::Disconnected(_) | NodeState::Retired => None,
        }
    }

    /// The connection, or immediately the reason for its absence. Waits only for the first
    /// connection attempt.
    pub(super) async fn ready_connection(
        &self,
        config: &TransportConfig,
    ) -> Result<Arc<BatchedConnection>, CallError> {
        let mut state = self.state();
        if matches!(state, NodeState::Connecting) {
            state = self.wait_first_connect(config).await;
        }
        let reason = match state {
            NodeState::Connected(batched) => return Ok(batched),
            NodeState::Disconnected(error) => error.detail,
            NodeState::Connecting => "the connection is still being opened".to_owned(),
            NodeState::Retired => "the connection was closed".to_owned(),
        };
        Err(CallError::not_sent(reason))
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

    /// Changes the state. A retired node stays retired.
    pub(super) fn set(&self, state: NodeState) {
        self.state.send_if_modified(|now| {
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

    /// Returns when the node is retired.
    pub(super) async fn retired(&self) {
        let mut state = self.state.subscribe();
        let _ = state
            .wait_for(|state| matches!(state, NodeState::Retired))
            .await;
    }
}
