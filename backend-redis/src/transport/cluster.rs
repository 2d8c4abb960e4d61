//! The masters of a cluster, and which slots each of them serves.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use redis::{Value, cmd};
use tenure_core::error::ErrorKind;
use tokio::{sync::Notify, time::timeout};

use super::{
    backoff::Backoff,
    connect_error::ConnectError,
    connection::{Connection, Purpose},
    handshake::text,
    node::{Node, NodeState},
    slots::SLOT_COUNT,
    topology::Topology,
};
use crate::address::Endpoint;

/// The map is not asked for more often than this, however many redirections come.
const MAP_REFRESH_INTERVAL: Duration = Duration::from_millis(100);
/// A node without slots that a request was sent to this recently is kept: slots are on their way
/// to it.
const UNASSIGNED_NODE_GRACE: Duration = Duration::from_secs(10);
/// A slot that nobody serves.
const UNASSIGNED: u16 = u16::MAX;

/// So much of the cluster as is known.
#[derive(Debug)]
pub(super) struct Cluster {
    seeds: Vec<Endpoint>,
    map: RwLock<SlotMap>,
    wanted: Notify,
}

#[derive(Debug)]
struct SlotMap {
    nodes: Vec<Arc<Node>>,
    /// By slot, the place in `nodes`.
    owners: Vec<u16>,
}

impl SlotMap {
    fn find(&self, place: &Endpoint) -> Option<usize> {
        let wanted = Some(place);
        self.nodes
            .iter()
            .position(|node| node.place.as_ref() == wanted)
    }
}

/// The first and last slot of a run, and its master.
type SlotRange = (u16, u16, Endpoint);

impl Cluster {
    pub(super) const fn new(seeds: Vec<Endpoint>) -> Self {
        Self {
            seeds,
            map: RwLock::new(SlotMap {
                nodes: Vec::new(),
                owners: Vec::new(),
            }),
            wanted: Notify::const_new(),
        }
    }

    /// Asks for the map and connects to every master in it. One that is only out of reach is no
    /// obstacle, so long as another one is not.
    pub(super) async fn start(&self, core: &Arc<Topology>) -> Result<(), ConnectError> {
        let ranges = self.fetch(core).await?;
        self.apply(core, &ranges).await;
        tokio::spawn(keep_map(Arc::clone(core)));
        let mut connected = false;
        let mut unreachable = None;
        for node in self.nodes() {
            match node.settled(&core.settings).await {
                NodeState::Up(_) => connected = true,
                NodeState::Down(trouble) if !trouble.kind.is_retryable() => return Err(trouble),
                NodeState::Down(trouble) => unreachable = Some(trouble),
                NodeState::Fresh | NodeState::Gone => {}
            }
        }
        if connected {
            return Ok(());
        }
        Err(unreachable.unwrap_or_else(|| core.late()))
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
            self.want_map();
        }
        owner
    }

    /// The map is asked for anew, soon.
    pub(super) fn want_map(&self) {
        self.wanted.notify_one();
    }

    /// The node at that place, which is connected from now on if it was not known.
    pub(super) fn node_at(&self, core: &Arc<Topology>, place: &Endpoint) -> Arc<Node> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let node = match map.find(place) {
            Some(at) => Arc::clone(&map.nodes[at]),
            None => {
                let node = Node::new(Some(place.clone()));
                map.nodes.push(Arc::clone(&node));
                core.spawn(&node);
                node
            }
        };
        drop(map);
        if core.is_closing() {
            node.part();
        }
        node.touch();
        node
    }

    /// A server has said that another one serves that slot.
    pub(super) fn moved(&self, core: &Arc<Topology>, slot: u16, place: &Endpoint) -> Arc<Node> {
        let node = self.node_at(core, place);
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = map.find(place)
            && let Ok(at) = u16::try_from(at)
            && let Some(owner) = map.owners.get_mut(usize::from(slot))
        {
            *owner = at;
        }
        drop(map);
        self.want_map();
        node
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, SlotMap> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks whoever is connected for the map; if nobody is, whoever might be reached.
    async fn fetch(&self, core: &Topology) -> Result<Vec<SlotRange>, ConnectError> {
        let mut trouble = None;
        let nodes = self.nodes();
        for conn in nodes.iter().filter_map(|node| node.up()) {
            let limit = core.settings.connect_limit();
            match timeout(limit, ask(&conn)).await {
                Ok(Ok(ranges)) => return Ok(ranges),
                Ok(Err(error)) => trouble = Some(error),
                Err(_) => trouble = Some(ConnectError::late(&conn.place, limit, false)),
            }
        }
        let known = nodes.iter().filter_map(|node| node.place.as_ref());
        for place in self.seeds.iter().chain(known) {
            let asked = match Connection::open(place, Purpose::Query, &core.settings).await {
                Ok(conn) => ask(&conn).await,
                Err(error) => Err(error),
            };
            match asked {
                Ok(ranges) => return Ok(ranges),
                // What waiting cannot mend is worth more than what it can.
                Err(error) if error.kind.is_retryable() => {
                    trouble.get_or_insert(error);
                }
                Err(error) => trouble = Some(error),
            }
        }
        Err(trouble.unwrap_or_else(|| core.late()))
    }

    /// Takes over a map: connects to who is new in it, and parts from who is gone.
    async fn apply(&self, core: &Arc<Topology>, ranges: &[SlotRange]) {
        let (fresh, parted) = self.replace(core, ranges);
        // First those who take over, so that whoever is told that all is well can be served.
        for node in &fresh {
            node.settled(&core.settings).await;
        }
        let mut gap = false;
        for node in parted {
            match node.up() {
                Some(conn) => core.unsubscribe(&conn).await,
                // Somebody was told that it is down, and nothing is left that could come up.
                None => gap = true,
            }
            node.part();
        }
        if !core.is_closing() && core.move_inbox().await {
            core.tell_down();
            gap = true;
        }
        if gap {
            core.tell_up();
        }
    }

    /// Who is new in the map, and who is no longer in it.
    fn replace(
        &self,
        core: &Arc<Topology>,
        ranges: &[SlotRange],
    ) -> (Vec<Arc<Node>>, Vec<Arc<Node>>) {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let mut new = SlotMap {
            nodes: Vec::new(),
            owners: vec![UNASSIGNED; usize::from(SLOT_COUNT)],
        };
        let mut fresh = Vec::new();
        for (first, last, place) in ranges {
            let at = new.find(place).unwrap_or_else(|| {
                let known = map.find(place).map(|at| Arc::clone(&map.nodes[at]));
                new.nodes.push(known.unwrap_or_else(|| {
                    let node = Node::new(Some(place.clone()));
                    core.spawn(&node);
                    fresh.push(Arc::clone(&node));
                    node
                }));
                new.nodes.len() - 1
            });
            let at = u16::try_from(at).unwrap_or(UNASSIGNED);
            for slot in *first..=*last {
                new.owners[usize::from(slot)] = at;
            }
        }
        let mut parted = Vec::new();
        for node in &map.nodes {
            if new.nodes.iter().any(|kept| Arc::ptr_eq(kept, node)) {
                continue;
            }
            if node.touched_within(UNASSIGNED_NODE_GRACE) && node.up().is_some() {
                new.nodes.push(Arc::clone(node));
            } else {
                parted.push(Arc::clone(node));
            }
        }
        *map = new;
        (fresh, parted)
    }
}

/// Asks for the map whenever it is wanted.
async fn keep_map(core: Arc<Topology>) {
    let super::topology::Layout::Cluster(cluster) = &core.layout else {
        return;
    };
    let work = async {
        let mut backoff = Backoff::default();
        loop {
            cluster.wanted.notified().await;
            match cluster.fetch(&core).await {
                Ok(ranges) => {
                    cluster.apply(&core, &ranges).await;
                    backoff = Backoff::default();
                }
                Err(trouble) => {
                    tracing::debug!(
                        backend = "redis",
                        "no map of the cluster: {}",
                        trouble.detail
                    );
                    cluster.want_map();
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
            tokio::time::sleep(MAP_REFRESH_INTERVAL).await;
        }
    };
    tokio::select! {
        () = core.closed() => {}
        () = work => {}
    }
}

async fn ask(conn: &Connection) -> Result<Vec<SlotRange>, ConnectError> {
    let mut question = cmd("CLUSTER");
    question.arg("SLOTS");
    let place = &conn.place;
    let reply = conn.command(&question).await;
    match reply.and_then(|value| match value {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }) {
        Ok(value) => read(&value, place).ok_or_else(|| {
            let what = format!("{place}: it serves no slots; has the cluster been made?");
            ConnectError::new(ErrorKind::Unavailable, what)
        }),
        Err(error) => Err(ConnectError::of_reply(place, "CLUSTER SLOTS", &error, None)),
    }
}

/// Reads a map: `[first, last, [host, port, ...], replicas ...]` for each run of slots.
fn read(reply: &Value, asked: &Endpoint) -> Option<Vec<SlotRange>> {
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
                [host, Value::Int(port), ..] => (text(host).unwrap_or_default(), *port),
                _ => return None,
            };
            let slot = |number: i64| u16::try_from(number).ok().filter(|slot| *slot < SLOT_COUNT);
            let place = Endpoint::named(host, u16::try_from(port).ok()?, asked)?;
            Some((slot(*first)?, slot(*last)?, place))
        })
        .collect();
    (!ranges.is_empty()).then_some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_and_rubbish_is_left_out() {
        let asked = Endpoint::tcp("h", 1);
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
        assert_eq!(read(&reply, &asked), Some(expected));
        assert_eq!(read(&Value::Array(vec![]), &asked), None);
        assert_eq!(read(&Value::Nil, &asked), None);
    }
}
