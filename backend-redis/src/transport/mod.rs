//! The connections of one client and the handling of its requests. This module knows nothing about
//! locks.
//!
//! It reconnects automatically and never sends a request twice (see ADR 0005).

mod arg_buffer;
mod backoff;
mod batch;
mod cluster;
mod config;
mod connect_error;
mod connection;
mod handshake;
mod node;
mod redirect;
mod replica_ack;
mod reply_class;
mod scan;
mod script_call;
mod sentinel;
mod slots;
mod stream;
mod topology;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tenure_core::{
    clock::{Clock, Instant},
    error::Error,
};
use tokio::{sync::mpsc, task::JoinSet};

pub(crate) use script_call::{CallError, CallResult, Listener, Script, ScriptCall};

use self::{
    config::TransportConfig,
    redirect::{ReplicaAck, RoutedCall, no_reply},
    topology::Topology,
};
use crate::{address::Address, config::Options};

/// The most script calls in one write.
const MAX_CALLS_PER_WRITE: usize = 100;
/// The most writes in flight to one node: enough to keep a distant server busy, and few enough that
/// another request does not wait behind all of them.
const MAX_WRITES_IN_FLIGHT: usize = 4;

/// What a transport needs in addition to the address and the options.
pub(crate) struct OpenParams {
    /// The inbox channel; a read-only client has none.
    pub(crate) inbox: Option<String>,
    /// The scripts that are loaded into each server on connecting.
    pub(crate) scripts: Vec<&'static Script>,
    /// The longest time that a request, or opening, may take.
    pub(crate) request_timeout: Duration,
    /// The clock of [`Transport::grants_blocked_until`].
    pub(crate) clock: Arc<dyn Clock>,
    /// Receives messages and connection changes once the transport is open.
    pub(crate) listener: Arc<dyn Listener>,
}

/// What is known about the servers as of their last connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeploymentInfo {
    /// The version of one of the servers.
    pub(crate) version: String,
    /// Its `maxmemory-policy`, if the user may read it.
    pub(crate) eviction_policy: Option<String>,
    /// Whether all servers write an append-only file, if the user may read that.
    pub(crate) aof_enabled: Option<bool>,
    /// The number of masters.
    pub(crate) masters: usize,
}

/// The connections of one client. Clones share them, and they close with the last clone.
#[derive(Clone)]
pub(crate) struct Transport(Arc<CloseOnDrop>);

struct CloseOnDrop(Arc<Topology>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("target", &self.topology().config.address.to_string())
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// Connects, and keeps the connections open from then on.
    ///
    /// # Errors
    ///
    /// The error states what failed, why, and what to do: `Unavailable`, `Unauthenticated`,
    /// `PermissionDenied`, `Config`, `Unsupported`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what it opened.
    pub(crate) async fn open(
        address: Address,
        options: Options,
        params: OpenParams,
    ) -> Result<Self, Error> {
        let config = TransportConfig {
            address,
            options,
            inbox: params.inbox,
            scripts: params.scripts,
            request_timeout: params.request_timeout.max(Duration::from_millis(1)),
            clock: params.clock,
            listener: params.listener,
            has_warned: AtomicBool::new(false),
        };
        let timeout = config.request_timeout;
        let transport = Self(Arc::new(CloseOnDrop(Topology::new(config))));
        let started = tokio::time::timeout(timeout, transport.topology().start()).await;
        started
            .unwrap_or_else(|_| Err(transport.topology().timed_out()))
            .map_err(connect_error::ConnectError::into_error)?;
        Ok(transport)
    }

    fn topology(&self) -> &Arc<Topology> {
        &self.0.0
    }

    fn routed(&self, index: usize, call: ScriptCall) -> RoutedCall {
        let slot = call.first_key().map_or(0, |key| self.slot(key));
        RoutedCall::new(index, call, slot)
    }

    /// Runs a script.
    ///
    /// # Cancel safety
    ///
    /// Once sent, the script runs even if the caller is cancelled.
    pub(crate) async fn call(&self, call: ScriptCall) -> CallResult {
        redirect::run_one(self.topology(), self.routed(0, call)).await
    }

    /// Runs several scripts, with one write for each node and 100 scripts. `on_reply` receives each
    /// result once, as soon as the replies to its write are there, in any order.
    ///
    /// # Cancel safety
    ///
    /// Once sent, the scripts run even if the caller is cancelled.
    pub(crate) async fn call_all(
        &self,
        calls: Vec<ScriptCall>,
        on_reply: &mut (dyn FnMut(usize, CallResult) + Send),
    ) {
        let on_reply = &mut |index, result, _| on_reply(index, result);
        let writes = self.writes(calls, on_reply);
        self.run_concurrently(writes, MAX_WRITES_IN_FLIGHT, None, on_reply)
            .await;
    }

    /// Runs the writes of several nodes, at most `max_in_flight` of each node at a time.
    async fn run_concurrently(
        &self,
        mut writes: Vec<(usize, Vec<RoutedCall>)>,
        max_in_flight: usize,
        replicas: Option<ReplicaAck>,
        on_reply: &mut (dyn FnMut(usize, CallResult, u32) + Send),
    ) {
        if writes.len() == 1
            && let Some((_, write)) = writes.pop()
        {
            return redirect::run_all(self.topology(), write, replicas, on_reply).await;
        }
        // Each lane runs its writes one after the other; the writes of a node are distributed over
        // its lanes.
        let mut lanes: HashMap<(usize, usize), Vec<Vec<RoutedCall>>> = HashMap::new();
        let mut writes_of_node: HashMap<usize, usize> = HashMap::new();
        for (node, write) in writes {
            let count = writes_of_node.entry(node).or_default();
            let lane = (node, *count % max_in_flight);
            *count += 1;
            lanes.entry(lane).or_default().push(write);
        }
        let (sender, mut results) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for lane in lanes.into_values() {
            let topology = Arc::clone(self.topology());
            let sender = sender.clone();
            tasks.spawn(async move {
                for write in lane {
                    let mut on_reply = |index, result, count| {
                        let _ = sender.send((index, result, count));
                    };
                    redirect::run_all(&topology, write, replicas, &mut on_reply).await;
                }
            });
        }
        drop(sender);
        while let Some((index, result, count)) = results.recv().await {
            on_reply(index, result, count);
        }
    }

    /// Splits the calls into writes: one node and at most [`MAX_CALLS_PER_WRITE`] calls in each.
    fn writes(
        &self,
        calls: Vec<ScriptCall>,
        on_reply: &mut (dyn FnMut(usize, CallResult, u32) + Send),
    ) -> Vec<(usize, Vec<RoutedCall>)> {
        let mut writes: Vec<(usize, Vec<RoutedCall>)> = Vec::new();
        let mut open: HashMap<usize, usize> = HashMap::new();
        for (index, call) in calls.into_iter().enumerate() {
            let slot = call.first_key().map_or(0, |key| self.slot(key));
            let node = match self.topology().owner(slot) {
                Ok(node) => Arc::as_ptr(&node) as usize,
                Err(error) => {
                    on_reply(index, Err(error), 0);
                    continue;
                }
            };
            let routed = RoutedCall::new(index, call, slot);
            match open.get(&node).and_then(|at| writes.get_mut(*at)) {
                Some((_, write)) if write.len() < MAX_CALLS_PER_WRITE => write.push(routed),
                _ => {
                    open.insert(node, writes.len());
                    writes.push((node, vec![routed]));
                }
            }
        }
        writes
    }

    /// Runs scripts and then waits, on each node, until `replicas` replicas have acknowledged them
    /// or `timeout` has passed. Returns each result with the number of acknowledgements. Uses
    /// separate connections.
    ///
    /// # Cancel safety
    ///
    /// Once sent, the scripts run even if the caller is cancelled.
    pub(crate) async fn call_replicated(
        &self,
        calls: Vec<ScriptCall>,
        replicas: u32,
        timeout: Duration,
    ) -> Vec<(CallResult, u32)> {
        let mut results: Vec<_> = calls.iter().map(|_| (Err(no_reply()), 0)).collect();
        let on_reply = &mut |index: usize, result, count| {
            if let Some(slot) = results.get_mut(index) {
                *slot = (result, count);
            }
        };
        let ack = ReplicaAck {
            count: replicas,
            timeout,
        };
        let writes = self.writes(calls, on_reply);
        // All writes start at once so that those of one node share one `WAIT`; otherwise each of
        // them would wait separately.
        self.run_concurrently(writes, usize::MAX, Some(ack), on_reply)
            .await;
        results
    }

    /// The slot of a key. One call may use only keys of the same slot.
    pub(crate) fn slot(&self, key: &str) -> u16 {
        if self.is_cluster() {
            slots::key_slot(key)
        } else {
            0
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.topology().config.is_cluster()
    }

    /// Returns one page of the keys that match the pattern, about `count` of them, and the cursor
    /// of the next page. As with `SCAN`, a key may appear twice.
    pub(crate) async fn scan(
        &self,
        cursor: Option<&str>,
        pattern: &str,
        count: usize,
    ) -> Result<(Vec<Vec<u8>>, Option<String>), CallError> {
        scan::scan(self.topology(), cursor, pattern, count).await
    }

    /// The time until which the server of this key may grant nothing because it started recently. A
    /// server that is not connected may just be restarting, so it counts as started now.
    pub(crate) fn grants_blocked_until(&self, key: &str) -> Option<Instant> {
        let config = &self.topology().config;
        let delay = config.options.restart_delay;
        if delay.is_zero() {
            return None;
        }
        let conn = self.topology().owner(self.slot(key)).ok();
        match conn.and_then(|node| node.connection()) {
            Some(conn) => conn.server_info.grants_blocked_until,
            None => Some(config.clock.now() + delay),
        }
    }

    pub(crate) fn deployment_info(&self) -> DeploymentInfo {
        let nodes = self.topology().nodes();
        let mut deployment_info = DeploymentInfo {
            masters: nodes.len(),
            ..DeploymentInfo::default()
        };
        for conn in nodes.iter().filter_map(|node| node.connection()) {
            let server_info = &conn.server_info;
            deployment_info.version.clone_from(&server_info.version);
            deployment_info
                .eviction_policy
                .clone_from(&server_info.policy);
            deployment_info.aof_enabled =
                match (deployment_info.aof_enabled, server_info.aof_enabled) {
                    (Some(one), Some(other)) => Some(one && other),
                    (one, other) => one.or(other),
                };
        }
        deployment_info
    }

    /// Closes the connections. Requests in flight get no reply; later requests are rejected.
    pub(crate) async fn close(&self) {
        self.topology().close();
    }
}
