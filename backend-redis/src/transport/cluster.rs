//! The masters of a cluster and the slots that each of them serves.

use std::{
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use redis::{Value, cmd};
use tenure_core::{driver::ConnectError, error::ErrorKind};
use tokio::{sync::Notify, time::timeout};

use super::{
    config::TransportConfig,
    connect_error,
    connection::{Connection, Purpose},
    handshake::as_text,
    node::Node,
    slots::SLOT_COUNT,
};
use crate::address::Endpoint;

/// The shortest time between two fetches of the slot map, however many redirections arrive.
pub(super) const MAP_REFRESH_INTERVAL: Duration = Duration::from_millis(100);
/// A node without slots is kept for this long after a redirection to it, because slots may be
/// moving there.
const UNASSIGNED_NODE_GRACE: Duration = Duration::from_secs(10);
/// Marks a slot that no node serves.
const UNASSIGNED: u16 = u16::MAX;

/// The known state of the cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    seeds: Vec<Endpoint>,
    map: RwLock<SlotMap>,
    refresh_requested: Notify,
}

#[derive(Debug)]
struct SlotMap {
    nodes: Vec<Arc<Node>>,
    /// For each slot, an index into `nodes`.
    owners: Vec<u16>,
}

impl SlotMap {
    fn find(&self, endpoint: &Endpoint) -> Option<usize> {
        let wanted = Some(endpoint);
        self.nodes
            .iter()
            .position(|node| node.endpoint.as_ref() == wanted)
    }
}

/// The first and last slot of a range, and its master.
pub(super) type SlotRange = (u16, u16, Endpoint);

impl Cluster {
    pub(super) const fn new(seeds: Vec<Endpoint>) -> Self {
        Self {
            seeds,
            map: RwLock::new(SlotMap {
                nodes: Vec::new(),
                owners: Vec::new(),
            }),
            refresh_requested: Notify::const_new(),
        }
    }

    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        self.read().nodes.clone()
    }

    pub(super) fn owner(&self, slot: u16) -> Option<Arc<Node>> {
        let map = self.read();
        let at = *map.owners.get(usize::from(slot))?;
        let owner = map.nodes.get(usize::from(at)).cloned();
        drop(map);
        if owner.is_none() {
            self.request_map_refresh();
        }
        owner
    }

    /// Requests a new slot map soon.
    pub(super) fn request_map_refresh(&self) {
        self.refresh_requested.notify_one();
    }

    /// Returns when a new slot map was requested.
    pub(super) async fn refresh_requested(&self) {
        self.refresh_requested.notified().await;
    }

    /// The node at this endpoint, and whether it was unknown.
    pub(super) fn node_at(&self, endpoint: &Endpoint) -> (Arc<Node>, bool) {
        let mut map = self.write();
        match map.find(endpoint) {
            Some(at) => (Arc::clone(&map.nodes[at]), false),
            None => {
                let node = Node::new(Some(endpoint.clone()));
                map.nodes.push(Arc::clone(&node));
                (node, true)
            }
        }
    }

    /// Records that a known node serves the slot, as another server reported.
    pub(super) fn record_move(&self, slot: u16, endpoint: &Endpoint) {
        let mut map = self.write();
        if let Some(at) = map.find(endpoint)
            && let Ok(at) = u16::try_from(at)
            && let Some(owner) = map.owners.get_mut(usize::from(slot))
        {
            *owner = at;
        }
        drop(map);
        self.request_map_refresh();
    }

    fn read(&self) -> RwLockReadGuard<'_, SlotMap> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, SlotMap> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the slot map from a connected node; if there is none, from any seed or known node
    /// that is reachable.
    pub(super) async fn fetch_map(
        &self,
        config: &TransportConfig,
    ) -> Result<Vec<SlotRange>, ConnectError> {
        let mut last_error = None;
        let nodes = self.nodes();
        for conn in nodes.iter().filter_map(|node| node.connection()) {
            let limit = config.connect_timeout();
            match timeout(limit, query_slots(&conn)).await {
                Ok(Ok(ranges)) => return Ok(ranges),
                Ok(Err(error)) => last_error = Some(error),
                Err(_) => last_error = Some(ConnectError::timed_out(limit, "").at(&conn.endpoint)),
            }
        }
        let known = nodes.iter().filter_map(|node| node.endpoint.as_ref());
        for endpoint in self.seeds.iter().chain(known) {
            let ranges = match Connection::open(endpoint, Purpose::Query, config).await {
                Ok(conn) => query_slots(&conn).await,
                Err(error) => Err(error),
            };
            match ranges {
                Ok(ranges) => return Ok(ranges),
                // An error that a retry cannot fix takes precedence over one that it can.
                Err(error) if error.kind.is_retryable() => {
                    last_error.get_or_insert(error);
                }
                Err(error) => last_error = Some(error),
            }
        }
        Err(last_error.unwrap_or_else(|| config.timed_out()))
    }

    /// Replaces the map. Returns the nodes that are new in it and the nodes that are gone.
    pub(super) fn replace_map(&self, ranges: &[SlotRange]) -> (Vec<Arc<Node>>, Vec<Arc<Node>>) {
        let mut map = self.write();
        let mut new = SlotMap {
            nodes: Vec::new(),
            owners: vec![UNASSIGNED; usize::from(SLOT_COUNT)],
        };
        let mut added = Vec::new();
        for (first, last, endpoint) in ranges {
            let at = new.find(endpoint).unwrap_or_else(|| {
                let known = map.find(endpoint).map(|at| Arc::clone(&map.nodes[at]));
                new.nodes.push(known.unwrap_or_else(|| {
                    let node = Node::new(Some(endpoint.clone()));
                    added.push(Arc::clone(&node));
                    node
                }));
                new.nodes.len() - 1
            });
            let at = u16::try_from(at).unwrap_or(UNASSIGNED);
            for slot in *first..=*last {
                new.owners[usize::from(slot)] = at;
            }
        }
        let mut removed = Vec::new();
        for node in &map.nodes {
            if new.nodes.iter().any(|kept| Arc::ptr_eq(kept, node)) {
                continue;
            }
            if node.was_redirect_target_within(UNASSIGNED_NODE_GRACE) && node.connection().is_some()
            {
                new.nodes.push(Arc::clone(node));
            } else {
                removed.push(Arc::clone(node));
            }
        }
        *map = new;
        (added, removed)
    }
}

async fn query_slots(conn: &Connection) -> Result<Vec<SlotRange>, ConnectError> {
    let mut command = cmd("CLUSTER");
    command.arg("SLOTS");
    let endpoint = &conn.endpoint;
    let reply = conn.command(&command).await;
    match reply.and_then(|value| match value {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }) {
        Ok(value) => parse_slots(&value, endpoint).ok_or_else(|| {
            let detail =
                format!("{endpoint}: the server serves no slots; has the cluster been created?");
            ConnectError::new(ErrorKind::Unavailable, detail)
        }),
        Err(error) => Err(connect_error::from_reply(
            endpoint,
            "CLUSTER SLOTS",
            &error,
            None,
        )),
    }
}

/// Parses a slot map: `[first, last, [host, port, ...], replicas ...]` for each range of slots.
fn parse_slots(reply: &Value, source: &Endpoint) -> Option<Vec<SlotRange>> {
    let Value::Array(runs) = reply else {
        return None;
    };
    let ranges: Vec<SlotRange> = runs
        .iter()
        .filter_map(|run| {
            let Value::Array(parts) = run else {
                return None;
            };
            let [
                Value::Int(first),
                Value::Int(last),
                Value::Array(master),
                ..,
            ] = &**parts
            else {
                return None;
            };
            let (host, port) = match &**master {
                [host, Value::Int(port), ..] => (as_text(host).unwrap_or_default(), *port),
                _ => return None,
            };
            let slot = |number: i64| u16::try_from(number).ok().filter(|slot| *slot < SLOT_COUNT);
            let endpoint = Endpoint::from_host_and_port(host, u16::try_from(port).ok()?, source)?;
            Some((slot(*first)?, slot(*last)?, endpoint))
        })
        .collect();
    (!ranges.is_empty()).then_some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_map_is_parsed_without_malformed_ranges() {
        let source = Endpoint::tcp("h", 1);
        let text = "*4\r\n\
             *3\r\n:0\r\n:5\r\n*2\r\n$2\r\nh2\r\n:7000\r\n\
             *4\r\n:6\r\n:9\r\n*2\r\n$0\r\n\r\n:7001\r\n*2\r\n$2\r\nh3\r\n:7002\r\n\
             *3\r\n:10\r\n:99999\r\n*2\r\n$2\r\nh2\r\n:7000\r\n\
             $1\r\nx\r\n";
        let reply = redis::parse_redis_value(text.as_bytes()).unwrap();
        let expected = vec![
            (0, 5, Endpoint::tcp("h2", 7000)),
            (6, 9, Endpoint::tcp("h", 7001)),
        ];
        assert_eq!(parse_slots(&reply, &source), Some(expected));
        assert_eq!(parse_slots(&Value::Array(vec![]), &source), None);
        assert_eq!(parse_slots(&Value::Nil, &source), None);
    }
}
