//! The way to the server or servers: one client's connections, and what becomes of a request that
//! is sent over them. It knows nothing of locks.
//!
//! It connects again by itself, and sends nothing twice (see ADR 0005).

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
    redirect::{ReplicaAck, RoutedCall, unheard},
    topology::Topology,
};
use crate::{address::Address, config::Options};

/// So many scripts go in one write.
const MAX_CALLS_PER_WRITE: usize = 100;
/// So many such writes to one node are under way at a time: enough to keep a distant server busy,
/// and few enough that a request that comes meanwhile does not wait for all of them.
const MAX_WRITES_IN_FLIGHT: usize = 4;

/// What a link is opened with, besides where to.
pub(crate) struct OpenParams {
    /// The channel to subscribe to; an observer has none.
    pub(crate) inbox: Option<String>,
    /// Handed to each server when it is connected.
    pub(crate) scripts: Vec<&'static Script>,
    /// The longest time for which a request may go unanswered, and for opening.
    pub(crate) limit: Duration,
    /// The clock of [`Transport::closed_until`].
    pub(crate) clock: Arc<dyn Clock>,
    /// Who hears of messages and of the connection, once it is open.
    pub(crate) listener: Arc<dyn Listener>,
}

/// What is known of the servers, as of their last connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeploymentInfo {
    /// The version of one of them.
    pub(crate) version: String,
    /// Its `maxmemory-policy`, if it may be asked.
    pub(crate) eviction_policy: Option<String>,
    /// Whether all of them write an append-only file, if they may be asked.
    pub(crate) aof_enabled: Option<bool>,
    /// How many masters there are.
    pub(crate) masters: usize,
}

/// One client's connections. Clones share them; they end with the last clone.
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
            .field("target", &self.core().settings.target.to_string())
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// Connects once. From then on keeps the connections by itself.
    ///
    /// # Errors
    ///
    /// Says what was tried, what came of it and what to do: `Unavailable`, `Unauthenticated`,
    /// `PermissionDenied`, `Config`, `Unsupported`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends what it began.
    pub(crate) async fn open(
        target: Address,
        options: Options,
        opening: OpenParams,
    ) -> Result<Self, Error> {
        let settings = TransportConfig {
            target,
            options,
            inbox: opening.inbox,
            scripts: opening.scripts,
            limit: opening.limit.max(Duration::from_millis(1)),
            clock: opening.clock,
            listener: opening.listener,
            warned: AtomicBool::new(false),
        };
        let limit = settings.limit;
        let link = Self(Arc::new(CloseOnDrop(Topology::new(settings))));
        let started = tokio::time::timeout(limit, link.core().start()).await;
        started
            .unwrap_or_else(|_| Err(link.core().late()))
            .map_err(connect_error::ConnectError::into_error)?;
        Ok(link)
    }

    fn core(&self) -> &Arc<Topology> {
        &self.0.0
    }

    fn item(&self, index: usize, call: ScriptCall) -> RoutedCall {
        let slot = call.first_key().map_or(0, |key| self.slot(key));
        RoutedCall::new(index, call, slot)
    }

    /// Runs a script.
    ///
    /// # Cancel safety
    ///
    /// Once sent, it runs whether or not anybody waits for its answer.
    pub(crate) async fn call(&self, call: ScriptCall) -> CallResult {
        redirect::run_one(self.core(), self.item(0, call)).await
    }

    /// Runs them all, by one write for each node and 100 scripts. `each` hears every answer once,
    /// as soon as its part is there, in any order.
    ///
    /// # Cancel safety
    ///
    /// Once sent, they run whether or not anybody waits for their answers.
    pub(crate) async fn call_all(
        &self,
        calls: Vec<ScriptCall>,
        each: &mut (dyn FnMut(usize, CallResult) + Send),
    ) {
        let each = &mut |index, answer, _| each(index, answer);
        let parts = self.parts(calls, each);
        self.spread(parts, MAX_WRITES_IN_FLIGHT, None, each).await;
    }

    /// Runs parts of several nodes, so many of each node at once.
    async fn spread(
        &self,
        mut parts: Vec<(usize, Vec<RoutedCall>)>,
        at_once: usize,
        replicas: Option<ReplicaAck>,
        each: &mut (dyn FnMut(usize, CallResult, u32) + Send),
    ) {
        if parts.len() == 1
            && let Some((_, part)) = parts.pop()
        {
            return redirect::run(self.core(), part, replicas, each).await;
        }
        // The lanes of one node take its parts in turn.
        let mut lanes: HashMap<(usize, usize), Vec<Vec<RoutedCall>>> = HashMap::new();
        let mut seen: HashMap<usize, usize> = HashMap::new();
        for (node, part) in parts {
            let count = seen.entry(node).or_default();
            let lane = (node, *count % at_once);
            *count += 1;
            lanes.entry(lane).or_default().push(part);
        }
        let (heard, mut answers) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for lane in lanes.into_values() {
            let core = Arc::clone(self.core());
            let heard = heard.clone();
            tasks.spawn(async move {
                for part in lane {
                    let mut each = |index, answer, count| {
                        let _ = heard.send((index, answer, count));
                    };
                    redirect::run(&core, part, replicas, &mut each).await;
                }
            });
        }
        drop(heard);
        while let Some((index, answer, count)) = answers.recv().await {
            each(index, answer, count);
        }
    }

    /// Calls by node, at most [`MAX_CALLS_PER_WRITE`] together.
    fn parts(
        &self,
        calls: Vec<ScriptCall>,
        each: &mut (dyn FnMut(usize, CallResult, u32) + Send),
    ) -> Vec<(usize, Vec<RoutedCall>)> {
        let mut parts: Vec<(usize, Vec<RoutedCall>)> = Vec::new();
        let mut open: HashMap<usize, usize> = HashMap::new();
        for (index, call) in calls.into_iter().enumerate() {
            let slot = call.first_key().map_or(0, |key| self.slot(key));
            let node = match self.core().owner(slot) {
                Ok(node) => Arc::as_ptr(&node) as usize,
                Err(fault) => {
                    each(index, Err(fault), 0);
                    continue;
                }
            };
            let item = RoutedCall::new(index, call, slot);
            match open.get(&node).and_then(|at| parts.get_mut(*at)) {
                Some((_, part)) if part.len() < MAX_CALLS_PER_WRITE => part.push(item),
                _ => {
                    open.insert(node, parts.len());
                    parts.push((node, vec![item]));
                }
            }
        }
        parts
    }

    /// Runs scripts, and after those of each node waits there for so many replicas, or for so long.
    /// Answers with how many have acknowledged. On connections of their own.
    ///
    /// # Cancel safety
    ///
    /// Once sent, they run whether or not anybody waits for their answers.
    pub(crate) async fn call_replicated(
        &self,
        calls: Vec<ScriptCall>,
        replicas: u32,
        patience: Duration,
    ) -> Vec<(CallResult, u32)> {
        let mut answers: Vec<_> = calls.iter().map(|_| (Err(unheard()), 0)).collect();
        let each = &mut |index: usize, answer, count| {
            if let Some(place) = answers.get_mut(index) {
                *place = (answer, count);
            }
        };
        let wanted = ReplicaAck {
            count: replicas,
            patience,
        };
        let parts = self.parts(calls, each);
        // All at once: those of one node share one wait, else each of them would wait for itself.
        self.spread(parts, usize::MAX, Some(wanted), each).await;
        answers
    }

    /// Which keys may be used together: those with the same number.
    pub(crate) fn slot(&self, key: &str) -> u16 {
        if self.is_cluster() {
            slots::key_slot(key)
        } else {
            0
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.core().settings.is_cluster()
    }

    /// One page of the keys that match the pattern, about `count` of them, and where to go on.
    /// As `SCAN` has it, a key may come twice.
    pub(crate) async fn scan(
        &self,
        cursor: Option<&str>,
        pattern: &str,
        count: usize,
    ) -> Result<(Vec<Vec<u8>>, Option<String>), CallError> {
        scan::scan(self.core(), cursor, pattern, count).await
    }

    /// Until when nothing may be granted by the server of that key, because it was started only
    /// just now. One that is not connected may be about to come back, started this moment.
    pub(crate) fn closed_until(&self, key: &str) -> Option<Instant> {
        let settings = &self.core().settings;
        let delay = settings.options.restart_delay;
        if delay.is_zero() {
            return None;
        }
        let conn = self.core().owner(self.slot(key)).ok();
        match conn.and_then(|node| node.up()) {
            Some(conn) => conn.learnt.closed_until,
            None => Some(settings.clock.now() + delay),
        }
    }

    pub(crate) fn facts(&self) -> DeploymentInfo {
        let nodes = self.core().nodes();
        let mut facts = DeploymentInfo {
            masters: nodes.len(),
            ..DeploymentInfo::default()
        };
        for conn in nodes.iter().filter_map(|node| node.up()) {
            let learnt = &conn.learnt;
            facts.version.clone_from(&learnt.version);
            facts.eviction_policy.clone_from(&learnt.policy);
            facts.aof_enabled = match (facts.aof_enabled, learnt.aof_enabled) {
                (Some(one), Some(other)) => Some(one && other),
                (one, other) => one.or(other),
            };
        }
        facts
    }

    /// Ends the connections. Requests that are under way are unanswered, later ones refused.
    pub(crate) async fn close(&self) {
        self.core().close();
    }
}
