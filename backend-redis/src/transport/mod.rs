//! The connections of one client and the handling of its requests. This module knows nothing about
//! locks.
//!
//! It reconnects automatically and never sends a request twice (see ADR 0005).

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
mod supervisor;
mod topology;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use tenure_core::{clock::Instant, error::Error};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

pub(crate) use config::TransportConfig;
pub(crate) use replica_ack::ReplicaAck;
pub(crate) use script_call::{CallError, CallResult, Listener, Script, ScriptCall};

use self::{redirect::RoutedCall, topology::Topology};

/// The most script calls in one write.
const MAX_CALLS_PER_WRITE: usize = 100;
/// The most writes in flight to one node: enough to keep a distant server busy, and few enough that
/// another request does not wait behind all of them.
const MAX_WRITES_IN_FLIGHT: usize = 4;

/// The connections of one client. Dropping it closes them.
pub(crate) struct Transport(Arc<Topology>);

impl Drop for Transport {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("address", &self.config().address.to_string())
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
    pub(crate) async fn open(mut config: TransportConfig) -> Result<Self, Error> {
        config.request_timeout = config.request_timeout.max(Duration::from_millis(1));
        let transport = Self(Topology::new(config));
        let timeout = transport.config().request_timeout;
        let started = tokio::time::timeout(timeout, supervisor::start(&transport.0)).await;
        started
            .unwrap_or_else(|_| Err(transport.config().timed_out()))
            .map_err(|error| error.into_error("redis", "connecting"))?;
        Ok(transport)
    }

    fn config(&self) -> &TransportConfig {
        &self.0.config
    }

    /// Runs a script.
    ///
    /// # Cancel safety
    ///
    /// Once sent, the script runs even if the caller is cancelled.
    pub(crate) async fn call(&self, call: ScriptCall) -> CallResult {
        let slot = self.slot_of(&call);
        redirect::run_one(&self.0, call, slot).await
    }

    /// Runs several scripts, with one write for each node and 100 scripts. If `replicas` is set,
    /// then waits for them on each node, on separate connections.
    ///
    /// `on_reply` receives each result once, as soon as the replies to its write are there, in any
    /// order, with the number of replicas that have acknowledged it.
    ///
    /// # Cancel safety
    ///
    /// Once sent, the scripts run even if the caller is cancelled.
    pub(crate) async fn call_all(
        &self,
        calls: Vec<ScriptCall>,
        replicas: Option<ReplicaAck>,
        on_reply: &mut (dyn FnMut(usize, CallResult, u32) + Send),
    ) {
        let mut writes = self.writes(calls, on_reply);
        if writes.len() == 1
            && let Some((_, write)) = writes.pop()
        {
            return redirect::run_all(&self.0, write, replicas, on_reply).await;
        }
        // Writes that wait for replicas all start at once. Then those of one node share one `WAIT`.
        let max_in_flight = match replicas {
            Some(_) => Semaphore::MAX_PERMITS,
            None => MAX_WRITES_IN_FLIGHT,
        };
        let mut permits: HashMap<usize, Arc<Semaphore>> = HashMap::new();
        let (sender, mut results) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for (node, write) in writes {
            let permits = permits.entry(node);
            let permits = permits.or_insert_with(|| Arc::new(Semaphore::new(max_in_flight)));
            let (topology, permits) = (Arc::clone(&self.0), Arc::clone(permits));
            let sender = sender.clone();
            tasks.spawn(async move {
                let _permit = permits.acquire().await;
                let mut on_reply = |index, result, acks| {
                    let _ = sender.send((index, result, acks));
                };
                redirect::run_all(&topology, write, replicas, &mut on_reply).await;
            });
        }
        drop(sender);
        while let Some((index, result, acks)) = results.recv().await {
            on_reply(index, result, acks);
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
            let slot = self.slot_of(&call);
            let node = match self.0.owner(slot) {
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

    fn slot_of(&self, call: &ScriptCall) -> u16 {
        call.keys.first().map_or(0, |key| self.slot(key))
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
        self.config().is_cluster()
    }

    /// Returns one page of the keys that match the pattern, about `count` of them, and the cursor
    /// of the next page. As with `SCAN`, a key may appear twice.
    pub(crate) async fn scan(
        &self,
        cursor: Option<&str>,
        pattern: &str,
        count: usize,
    ) -> Result<(Vec<Vec<u8>>, Option<String>), CallError> {
        scan::scan(&self.0, cursor, pattern, count).await
    }

    /// The time until which the server of this key may grant nothing because it started recently. A
    /// server that is not connected may just be restarting, so it counts as started now.
    pub(crate) fn grants_blocked_until(&self, key: &str) -> Option<Instant> {
        let config = self.config();
        let delay = config.options.restart_delay;
        if delay.is_zero() {
            return None;
        }
        let conn = self.0.owner(self.slot(key)).ok();
        match conn.and_then(|node| node.connection()) {
            Some(conn) => conn.grants_blocked_until,
            None => Some(config.clock.now() + delay),
        }
    }

    /// Closes the connections. Requests in flight get no reply; later requests are rejected.
    pub(crate) fn close(&self) {
        self.0.close();
    }
}
