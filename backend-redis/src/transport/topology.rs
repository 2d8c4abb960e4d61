//! The state that the tasks of one client share: its nodes, and the connection that carries the
//! inbox.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{Mutex, watch};

use tenure_core::driver::ConnectError;

use super::{
    cluster::Cluster,
    config::TransportConfig,
    connection::{Connection, Purpose},
    node::Node,
    script_call::CallError,
    sentinel::Sentinels,
};
use crate::address::{Deployment, Endpoint};

#[derive(Debug)]
pub(super) struct Topology {
    pub(super) config: Arc<TransportConfig>,
    pub(super) layout: Layout,
    /// The connection on which the inbox is subscribed. Locked while that changes.
    inbox: Mutex<Weak<Connection>>,
    /// Whether opening has succeeded. Before that, the listener is not notified.
    opened: AtomicBool,
    closing: watch::Sender<bool>,
}

#[derive(Debug)]
pub(super) enum Layout {
    Single(Endpoint, Arc<Node>),
    Sentinel(Sentinels, Arc<Node>),
    Cluster(Cluster),
}

impl Topology {
    pub(super) fn new(config: TransportConfig) -> Arc<Self> {
        let layout = match config.address.deployment.clone() {
            Deployment::Single(endpoint) => Layout::Single(endpoint, Node::new(None)),
            Deployment::Sentinel { sentinels, name } => {
                Layout::Sentinel(Sentinels::new(sentinels, name), Node::new(None))
            }
            Deployment::Cluster { seeds } => Layout::Cluster(Cluster::new(seeds)),
        };
        Arc::new(Self {
            config: Arc::new(config),
            layout,
            inbox: Mutex::new(Weak::new()),
            opened: AtomicBool::new(false),
            closing: watch::Sender::new(false),
        })
    }

    /// Records that opening has succeeded.
    pub(super) fn set_open(&self) {
        self.opened.store(true, Ordering::Release);
    }

    /// Closes all connections. Requests in flight get no reply.
    pub(super) fn close(&self) {
        self.closing.send_replace(true);
        for node in self.nodes() {
            if let Some(conn) = node.connection() {
                conn.abort("the client is closed");
            }
            node.retire();
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Returns when the client is closed.
    pub(super) async fn closed(&self) {
        let mut closing = self.closing.subscribe();
        let _ = closing.wait_for(|closing| *closing).await;
    }

    pub(super) fn is_open(&self) -> bool {
        self.opened.load(Ordering::Acquire) && !self.is_closing()
    }

    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        match &self.layout {
            Layout::Single(_, node) | Layout::Sentinel(_, node) => vec![Arc::clone(node)],
            Layout::Cluster(cluster) => cluster.nodes(),
        }
    }

    /// The node that serves a slot.
    pub(super) fn owner(&self, slot: u16) -> Result<Arc<Node>, CallError> {
        match &self.layout {
            Layout::Single(_, node) | Layout::Sentinel(_, node) => Ok(Arc::clone(node)),
            Layout::Cluster(cluster) => cluster.owner(slot).ok_or_else(|| {
                CallError::not_sent(format!("no node of the cluster serves slot {slot}"))
            }),
        }
    }

    /// Makes one attempt to connect a node, check it, and subscribe.
    pub(super) async fn connect(&self, node: &Node) -> Result<Arc<Connection>, ConnectError> {
        let conn = match (&self.layout, &node.endpoint) {
            (Layout::Sentinel(sentinels, _), _) => sentinels.connect(&self.config).await?,
            (Layout::Cluster(_), Some(endpoint)) | (Layout::Single(endpoint, _), _) => {
                Connection::open(endpoint, Purpose::Commands, &self.config).await?
            }
            (Layout::Cluster(_), None) => return Err(self.config.timed_out()),
        };
        let conn = Arc::new(conn);
        self.subscribe(&conn).await?;
        Ok(conn)
    }

    /// Returns when a connection has ended. Closes it when its server has been replaced.
    pub(super) async fn until_closed(&self, conn: &Connection) {
        match &self.layout {
            Layout::Single(..) => conn.closed().await,
            Layout::Sentinel(sentinels, _) => tokio::select! {
                () = conn.closed() => {}
                () = sentinels.until_replaced(&conn.endpoint, &self.config) => {
                    conn.abort("the sentinels name another master");
                }
            },
            Layout::Cluster(_) => tokio::select! {
                () = conn.closed() => {}
                () = self.probe_inbox_connection(conn) => {}
            },
        }
    }

    /// Sends a request at regular intervals; never returns. In a cluster, the node that carries the
    /// inbox may serve none of our locks, so without requests nobody would notice that it has
    /// stopped. `HELLO` needs no right.
    async fn probe_inbox_connection(&self, conn: &Connection) {
        loop {
            tokio::time::sleep(self.config.request_timeout).await;
            if std::ptr::eq(self.inbox.lock().await.as_ptr(), conn) {
                let _ = conn.command(&redis::cmd("HELLO")).await;
            }
        }
    }

    /// Subscribes on this connection unless the inbox is subscribed elsewhere. In a cluster, a
    /// message reaches every node.
    async fn subscribe(&self, conn: &Arc<Connection>) -> Result<(), ConnectError> {
        let Some(channel) = &self.config.inbox else {
            return Ok(());
        };
        let mut subscribed = self.inbox.lock().await;
        if subscribed
            .upgrade()
            .is_some_and(|subscribed| !subscribed.is_closed())
        {
            return Ok(());
        }
        conn.subscribe(channel).await?;
        *subscribed = Arc::downgrade(conn);
        Ok(())
    }

    /// Moves the inbox away from this connection.
    pub(super) async fn unsubscribe(&self, conn: &Arc<Connection>) {
        let mut subscribed = self.inbox.lock().await;
        if std::ptr::eq(subscribed.as_ptr(), Arc::as_ptr(conn)) {
            *subscribed = Weak::new();
        }
    }

    /// Subscribes on another node if that is necessary and one is connected. Returns whether it was
    /// necessary.
    pub(super) async fn move_inbox(&self) -> bool {
        if self.config.inbox.is_none() {
            return false;
        }
        let subscribed = self.inbox.lock().await.upgrade();
        if subscribed.is_some_and(|subscribed| !subscribed.is_closed()) {
            return false;
        }
        for conn in self.nodes().iter().filter_map(|node| node.connection()) {
            if !conn.is_closed() && self.subscribe(&conn).await.is_ok() {
                break;
            }
        }
        true
    }

    pub(super) fn notify_disconnected(&self) {
        if self.is_open() {
            self.config.listener.on_disconnected();
        }
    }

    pub(super) fn notify_reconnected(&self) {
        if self.is_open() {
            self.config.listener.on_reconnected();
        }
    }

    /// Handles the loss of a node's connection.
    pub(super) async fn connection_lost(&self) {
        if let Layout::Cluster(cluster) = &self.layout {
            cluster.request_map_refresh();
            if self.move_inbox().await {
                self.notify_reconnected();
            }
        }
    }

    /// Requests a new slot map soon, if this is a cluster.
    pub(super) fn request_map_refresh(&self) {
        if let Layout::Cluster(cluster) = &self.layout {
            cluster.request_map_refresh();
        }
    }
}
