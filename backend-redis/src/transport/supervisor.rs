//! The tasks that keep the nodes connected and the slot map current.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    driver::{Backoff, ConnectError},
    error::ErrorKind,
};
use tokio::time::Instant;

use super::{
    batch::BatchedConnection,
    cluster::{Cluster, MAP_REFRESH_INTERVAL, SlotRange},
    node::{Node, NodeState},
    topology::{Layout, Topology},
};
use crate::address::Endpoint;

/// The longest delay after the first failure.
const RECONNECT_BACKOFF_INITIAL: Duration = Duration::from_millis(10);
/// The longest delay.
const RECONNECT_BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Starts the tasks and waits for the first connections.
pub(super) async fn start(topology: &Arc<Topology>) -> Result<(), ConnectError> {
    match &topology.layout {
        Layout::Single(_, node) | Layout::Sentinel(_, node) => {
            supervise(topology, node);
            match node.wait_first_connect(&topology.config).await {
                NodeState::Connected(_) => {}
                NodeState::Disconnected(error) => return Err(error),
                NodeState::Connecting | NodeState::Retired => {
                    return Err(topology.config.timed_out());
                }
            }
        }
        Layout::Cluster(cluster) => start_cluster(topology, cluster).await?,
    }
    topology.set_open();
    Ok(())
}

/// Fetches the slot map and connects to every master in it. An unreachable master is tolerated as
/// long as another one is connected.
async fn start_cluster(topology: &Arc<Topology>, cluster: &Cluster) -> Result<(), ConnectError> {
    let ranges = cluster.fetch_map(&topology.config).await?;
    apply_map(topology, cluster, &ranges).await;
    tokio::spawn(refresh_map_task(Arc::clone(topology)));
    let mut connected = false;
    let mut unreachable = None;
    for node in cluster.nodes() {
        match node.wait_first_connect(&topology.config).await {
            NodeState::Connected(_) => connected = true,
            NodeState::Disconnected(error) if !error.kind.is_retryable() => return Err(error),
            NodeState::Disconnected(error) => unreachable = Some(error),
            NodeState::Connecting | NodeState::Retired => {}
        }
    }
    if connected {
        return Ok(());
    }
    Err(unreachable.unwrap_or_else(|| topology.config.timed_out()))
}

/// Keeps a node connected until it is retired.
fn supervise(topology: &Arc<Topology>, node: &Arc<Node>) {
    let (topology, node) = (Arc::clone(topology), Arc::clone(node));
    tokio::spawn(async move {
        tokio::select! {
            () = node.retired() => {}
            () = keep_connected(&topology, &node) => {}
        }
    });
}

fn new_backoff() -> Backoff {
    Backoff::new(RECONNECT_BACKOFF_INITIAL, RECONNECT_BACKOFF_MAX)
}

async fn keep_connected(topology: &Topology, node: &Node) {
    let mut backoff = new_backoff();
    let mut was_connected = false;
    loop {
        let batched = connect_with_backoff(topology, node, &mut backoff, was_connected).await;
        was_connected = true;
        let since = Instant::now();
        topology.until_closed(&batched.conn).await;
        backoff.record_uptime(since.elapsed());
        let reason = batched.conn.close_reason(&topology.config);
        drop(batched);
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
        backoff.pause(&*topology.config.clock).await;
    }
}

/// Connects the node, however long that takes. Notifies the listener if the connection was
/// interrupted.
async fn connect_with_backoff(
    topology: &Topology,
    node: &Node,
    backoff: &mut Backoff,
    was_connected: bool,
) -> Arc<BatchedConnection> {
    let mut reported: Option<String> = None;
    loop {
        match topology.connect(node).await {
            Ok(conn) => {
                let batched = Arc::new(BatchedConnection::new(conn));
                node.set(NodeState::Connected(Arc::clone(&batched)));
                if was_connected || reported.is_some() {
                    let server = &batched.conn.endpoint;
                    tracing::info!(backend = "redis", %server, "reconnected");
                    topology.notify_reconnected();
                }
                return batched;
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
                topology.request_map_refresh();
            }
        }
        backoff.pause(&*topology.config.clock).await;
    }
}

/// The node of a cluster to which a server redirects a request. A node that was unknown is connected
/// from now on.
pub(super) fn redirect_target(
    topology: &Arc<Topology>,
    cluster: &Cluster,
    endpoint: &Endpoint,
) -> Arc<Node> {
    let (node, is_new) = cluster.node_at(endpoint);
    if is_new {
        supervise(topology, &node);
    }
    if topology.is_closing() {
        node.retire();
    }
    node.mark_redirect_target();
    node
}

/// Fetches the slot map whenever a refresh is requested.
async fn refresh_map_task(topology: Arc<Topology>) {
    let Layout::Cluster(cluster) = &topology.layout else {
        return;
    };
    let work = async {
        let mut backoff = new_backoff();
        loop {
            cluster.refresh_requested().await;
            match cluster.fetch_map(&topology.config).await {
                Ok(ranges) => {
                    apply_map(&topology, cluster, &ranges).await;
                    backoff.reset();
                }
                Err(error) => {
                    tracing::debug!(
                        backend = "redis",
                        "cannot fetch the slot map of the cluster: {}",
                        error.detail
                    );
                    cluster.request_map_refresh();
                    backoff.pause(&*topology.config.clock).await;
                }
            }
            tokio::time::sleep(MAP_REFRESH_INTERVAL).await;
        }
    };
    tokio::select! {
        () = topology.closed() => {}
        () = work => {}
    }
}

/// Applies a slot map: connects to the nodes that are new in it and retires the nodes that are gone.
async fn apply_map(topology: &Arc<Topology>, cluster: &Cluster, ranges: &[SlotRange]) {
    let (added, removed) = cluster.replace_map(ranges);
    for node in &added {
        supervise(topology, node);
    }
    // New nodes connect first, so that a listener that is notified of the reconnection can be
    // served.
    for node in &added {
        node.wait_first_connect(&topology.config).await;
    }
    let mut gap = false;
    for node in removed {
        match node.connection() {
            Some(conn) => topology.unsubscribe(&conn).await,
            // The listener was told that this node is disconnected, and the node will never
            // reconnect.
            None => gap = true,
        }
        node.retire();
    }
    if !topology.is_closing() && topology.move_inbox().await {
        topology.notify_disconnected();
        gap = true;
    }
    if gap {
        topology.notify_reconnected();
    }
}
