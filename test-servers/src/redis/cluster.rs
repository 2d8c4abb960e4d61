//! A Redis cluster: masters that share all slots, and optional replicas.

use std::time::Duration;

use super::{Server, ServerBuilder, SlotMove, admin};
use crate::{
    Error,
    poll::{self, Condition},
};

/// The number of slots of every cluster.
const SLOTS: usize = 16_384;
/// The time limit for the nodes to agree that the cluster serves.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(60);

/// Settings of a cluster that has not started yet. The default: three masters without replicas.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct ClusterBuilder {
    masters: usize,
    replicas: usize,
    node_timeout: Duration,
    nodes: ServerBuilder,
}

impl ClusterBuilder {
    /// Sets the number of masters, at least one. Fewer than three cannot agree on a failover.
    pub fn masters(mut self, count: usize) -> Self {
        self.masters = count.max(1);
        self
    }

    /// Sets the number of replicas of each master.
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// Sets the time after which a silent node counts as failed. The default is 2 s.
    pub fn node_timeout(mut self, silence: Duration) -> Self {
        self.node_timeout = silence;
        self
    }

    /// Sets the settings of the nodes. TLS is not supported.
    pub fn nodes(mut self, settings: ServerBuilder) -> Self {
        self.nodes = settings;
        self
    }

    /// Starts all nodes. Returns when each node reports that the cluster serves all slots.
    ///
    /// # Errors
    ///
    /// When a node does not start, or when they do not agree within a minute.
    pub fn start(self) -> Result<Cluster, Error> {
        if self.nodes.tls {
            return Err(Error::new("cannot start a cluster with TLS: not supported"));
        }
        let mut settings = self.nodes.config(
            "cluster-node-timeout",
            &self.node_timeout.as_millis().to_string(),
        );
        settings.cluster = true;
        let count = self.masters * (1 + self.replicas);
        let nodes = (0..count)
            .map(|_| settings.clone().start())
            .collect::<Result<Vec<_>, _>>()?;
        let cluster = Cluster {
            nodes,
            masters: self.masters,
        };
        cluster.form(self.replicas)?;
        Ok(cluster)
    }
}

/// A running cluster, stopped when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The initial masters, then their replicas.
    nodes: Vec<Server>,
    masters: usize,
}

impl Cluster {
    /// The settings of a new cluster.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder {
            masters: 3,
            replicas: 0,
            node_timeout: Duration::from_secs(2),
            nodes: Server::builder(),
        }
    }

    /// All nodes: the initial masters, then their replicas.
    #[must_use]
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// The initial masters.
    #[must_use]
    pub fn masters(&self) -> &[Server] {
        &self.nodes[..self.masters]
    }

    /// `redis+cluster://127.0.0.1:PORT,127.0.0.1:PORT,…`, with the initial masters.
    #[must_use]
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.masters().iter().map(Server::address).collect();
        format!("redis+cluster://{}", addresses.join(","))
    }

    /// The slot of a key.
    ///
    /// # Errors
    ///
    /// When the first node does not answer.
    pub fn slot_of(&self, key: &str) -> Result<u16, Error> {
        let slot = self.nodes[0].text(&["CLUSTER", "KEYSLOT", key])?;
        slot.parse()
            .map_err(|_| Error::new(format!("the slot of key {key} is {slot}, not a number")))
    }

    /// The node that reports to serve a slot.
    ///
    /// # Errors
    ///
    /// When not exactly one of the nodes that answer serves it.
    pub fn owner_of_slot(&self, slot: u16) -> Result<&Server, Error> {
        let serving = |node: &&Server| {
            let nodes = node.probe(&["CLUSTER", "NODES"]);
            nodes.is_ok_and(|nodes| serves(&admin::text(&nodes), slot))
        };
        let owners: Vec<&Server> = self.nodes.iter().filter(serving).collect();
        match owners[..] {
            [owner] => Ok(owner),
            _ => Err(Error::new(format!(
                "slot {slot} is served by {} nodes of the cluster, not by one",
                owners.len()
            ))),
        }
    }

    /// Prepares a move of `slot` from its owner to `target`, in steps. This function changes nothing.
    ///
    /// # Errors
    ///
    /// When no node owns the slot, or the target already does.
    pub fn slot_move<'a>(&'a self, slot: u16, target: &'a Server) -> Result<SlotMove<'a>, Error> {
        let source = self.owner_of_slot(slot)?;
        if source.port() == target.port() {
            return Err(Error::new(format!(
                "cannot move slot {slot} to the node on port {}: this node owns the slot",
                target.port()
            )));
        }
        SlotMove::new(self, slot, source, target)
    }

    /// Waits until every running node reports that the cluster serves all slots.
    ///
    /// # Errors
    ///
    /// When that is not so within a minute.
    pub fn wait_until_serving(&self) -> Result<(), Error> {
        let running: Vec<&Server> = self.nodes.iter().filter(|node| node.is_running()).collect();
        for node in running {
            let what = format!("the node on port {} serves its cluster", node.port());
            poll::until(&what, HEALTHY_TIMEOUT, || {
                Condition::from_answer(Self::expect_info(
                    node,
                    &[
                        ("cluster_state", "ok".to_owned()),
                        ("cluster_slots_assigned", SLOTS.to_string()),
                        ("cluster_known_nodes", self.nodes.len().to_string()),
                    ],
                ))
            })
            .map_err(|error| error.with_log(node.end_of_log()))?;
        }
        Ok(())
    }

    fn form(&self, replicas: usize) -> Result<(), Error> {
        for (index, master) in self.masters().iter().enumerate() {
            let first = SLOTS * index / self.masters;
            let last = SLOTS * (index + 1) / self.masters - 1;
            let (first, last) = (first.to_string(), last.to_string());
            master.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last])?;
            // Distinct epochs, so that the nodes need not resolve a collision first.
            let epoch = (index + 1).to_string();
            master.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch])?;
        }
        // All nodes meet each other, so that no node waits for gossip.
        for (index, node) in self.nodes.iter().enumerate() {
            for other in &self.nodes[..index] {
                let (port, bus) = (
                    other.port().to_string(),
                    other.member.own().peer.to_string(),
                );
                node.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])?;
            }
        }
        self.wait_until_serving()?;
        if replicas == 0 {
            return Ok(());
        }
        for (index, node) in self.nodes[self.masters..].iter().enumerate() {
            let master = &self.nodes[index / replicas];
            let id = node_id(master)?;
            node.command(&["CLUSTER", "REPLICATE", &id])?;
        }
        for node in &self.nodes[self.masters..] {
            let what = format!("the node on port {} follows its master", node.port());
            poll::until(&what, HEALTHY_TIMEOUT, || {
                Condition::from_answer(node.link_status().and_then(|link| {
                    if link == "up" {
                        return Ok(());
                    }
                    Err(Error::new(format!("its link to its master is {link}")))
                }))
            })
            .map_err(|error| error.with_log(node.end_of_log()))?;
        }
        self.wait_until_serving()
    }

    fn expect_info(node: &Server, expected: &[(&str, String)]) -> Result<(), Error> {
        let info = admin::text(&node.probe(&["CLUSTER", "INFO"])?);
        for (name, value) in expected {
            let found = admin::field(&info, name).unwrap_or("absent");
            if found != value {
                return Err(Error::new(format!("{name} is {found}, not {value}")));
            }
        }
        Ok(())
    }
}

/// Returns the id of the node in the cluster.
pub(super) fn node_id(node: &Server) -> Result<String, Error> {
    node.text(&["CLUSTER", "MYID"])
}

/// Returns whether the node with this reply to `CLUSTER NODES` serves the slot.
fn serves(nodes: &str, slot: u16) -> bool {
    let own = nodes.lines().find(|line| {
        let flags = line.split(' ').nth(2).unwrap_or_default();
        flags.split(',').any(|flag| flag == "myself") && flags.contains("master")
    });
    // From the ninth field on there are slots, ranges of slots, and migrating slots.
    own.is_some_and(|line| {
        line.split(' ').skip(8).any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            match (first.parse::<u16>(), last.parse::<u16>()) {
                (Ok(first), Ok(last)) => (first..=last).contains(&slot),
                _ => false,
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_serves_the_slots_of_its_own_line() {
        let nodes = "aa 127.0.0.1:7001@17001 master - 0 1 2 connected 5461-10922\n\
                     bb 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-5460 9000 \
                     [77->-aa]\n";
        for (slot, expected) in [(0, true), (5460, true), (5461, false), (9000, true)] {
            assert_eq!(serves(nodes, slot), expected, "slot {slot}");
        }
        let replica = "bb 127.0.0.1:7000@17000 myself,slave aa 0 0 1 connected\n";
        assert!(!serves(replica, 0));
    }
}
