//! Sends calls and follows redirections.
//!
//! A call is resent only if the server reported that it did not execute it: because it does not
//! know the script (then its source is sent), because another node serves the slot, or because the
//! keys are being moved.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, Pipeline, RedisResult, Value, cmd};
use tokio::time::Instant;

use super::{
    batch::{self, Outcome},
    connection::Connection,
    node::{Node, not_sent},
    reply_class::{ReplyClass, classify},
    script_call::{CallError, CallResult, ScriptCall},
    topology::{Layout, Topology},
};

/// More redirections than a slot can legitimately cause.
const MAX_REDIRECTS: u32 = 8;
/// The longest time for which a call whose keys are being moved is retried.
const TRY_AGAIN_TIMEOUT: Duration = Duration::from_millis(100);
/// The interval between these retries.
const TRY_AGAIN_INTERVAL: Duration = Duration::from_millis(15);

/// One call together with its route.
#[derive(Debug)]
pub(super) struct RoutedCall {
    index: usize,
    pub(super) call: ScriptCall,
    slot: u16,
    /// Whether to send the source of the script.
    with_source: bool,
    /// The node to use instead of the owner of the slot, and whether only for this request
    /// (`ASKING`).
    route: Option<(Arc<Node>, bool)>,
    redirects: u32,
}

impl RoutedCall {
    pub(super) const fn new(index: usize, call: ScriptCall, slot: u16) -> Self {
        Self {
            index,
            call,
            slot,
            with_source: false,
            route: None,
            redirects: 0,
        }
    }

    fn command(&self) -> Cmd {
        self.call.command(self.with_source)
    }

    /// Sends this call alone.
    pub(super) async fn send(&self, conn: &Connection) -> RedisResult<Value> {
        let reply = conn.command(&self.command()).await;
        reply.map(|reply| self.call.unwrap_reply(reply))
    }

    fn needs_asking(&self) -> bool {
        matches!(&self.route, Some((_, true)))
    }

    fn node(&self, topology: &Topology) -> Result<Arc<Node>, CallError> {
        match &self.route {
            Some((node, _)) => Ok(Arc::clone(node)),
            None => topology.owner(self.slot),
        }
    }
}

/// How many replicas have to acknowledge, and how long to wait for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplicaAck {
    pub(super) count: u32,
    pub(super) timeout: Duration,
}

/// Runs all calls with one write to each node. `on_reply` receives each result with the number of
/// replicas that have acknowledged it, which is 0 if no acknowledgement was requested.
pub(super) async fn run_all(
    topology: &Arc<Topology>,
    calls: Vec<RoutedCall>,
    replicas: Option<ReplicaAck>,
    on_reply: &mut (dyn FnMut(usize, CallResult, u32) + Send),
) {
    let deadline = Instant::now() + TRY_AGAIN_TIMEOUT;
    let mut calls = calls;
    loop {
        let mut to_resend = Vec::new();
        let mut pause = false;
        for (node, group) in group_by_node(topology, calls, on_reply) {
            let (conn, replies, acks) = match send_group(topology, &node, &group, replicas).await {
                Ok(sent) => sent,
                Err(error) => {
                    for routed in group {
                        on_reply(routed.index, Err(error.clone()), 0);
                    }
                    continue;
                }
            };
            for (routed, reply) in group.into_iter().zip(replies) {
                let index = routed.index;
                match handle_reply(topology, &node, &conn, routed, reply, deadline) {
                    NextStep::Done(result) => on_reply(index, result, acks),
                    NextStep::Resend(routed) => to_resend.push(routed),
                    NextStep::ResendLater(routed) => {
                        pause = true;
                        to_resend.push(routed);
                    }
                }
            }
        }
        if to_resend.is_empty() {
            return;
        }
        if pause {
            tokio::time::sleep(TRY_AGAIN_INTERVAL).await;
        }
        calls = to_resend;
    }
}

/// Runs one call. In the usual case it costs nothing beyond the request itself.
pub(super) async fn run_one(topology: &Arc<Topology>, routed: RoutedCall) -> CallResult {
    let node = routed.node(topology)?;
    let conn = node.ready_connection(&topology.config).await?;
    // In a cluster, two locks are rarely in the same slot.
    let outcome = if routed.call.is_batchable() && !topology.config.is_cluster() {
        batch::send(&conn, routed).await
    } else {
        let reply = routed.send(&conn).await;
        Outcome::Replied(routed, reply)
    };
    let routed = match outcome {
        Outcome::Failed(error) => return Err(error),
        Outcome::SendAlone(routed) => routed,
        Outcome::Replied(routed, reply) => {
            let deadline = Instant::now() + TRY_AGAIN_TIMEOUT;
            match handle_reply(topology, &node, &conn, routed, reply, deadline) {
                NextStep::Done(result) => return result,
                NextStep::Resend(routed) | NextStep::ResendLater(routed) => routed,
            }
        }
    };
    let mut answer = None;
    run_all(topology, vec![routed], None, &mut |_, result, _| {
        answer = Some(result);
    })
    .await;
    answer.unwrap_or_else(|| Err(no_reply()))
}

/// The error for a call that never received a result: its outcome is unknown.
pub(super) fn no_reply() -> CallError {
    CallError::OutcomeUnknown((redis::ErrorKind::Client, "no reply arrived").into())
}

/// What happens to a call after a reply.
enum NextStep {
    Done(CallResult),
    /// The call is sent again.
    Resend(RoutedCall),
    /// The call is sent again after a pause.
    ResendLater(RoutedCall),
}

fn handle_reply(
    topology: &Arc<Topology>,
    node: &Arc<Node>,
    conn: &Connection,
    mut routed: RoutedCall,
    reply: RedisResult<Value>,
    deadline: Instant,
) -> NextStep {
    let class = match classify(reply, &conn.endpoint) {
        ReplyClass::Final(result) => return NextStep::Done(result),
        class => class,
    };
    let reject = |detail: String| NextStep::Done(Err(not_sent(detail)));
    let needs_asking = routed.needs_asking();
    routed.redirects += 1;
    routed.route = None;
    if routed.redirects >= MAX_REDIRECTS {
        return reject("too many cluster redirections".to_owned());
    }
    match (class, &topology.layout) {
        (ReplyClass::Final(result), _) => NextStep::Done(result),
        (ReplyClass::Demoted(error), _) => {
            conn.abort("the server is a replica now");
            // The reply may have arrived on the connection that waits for replicas.
            if let Some(conn) = node.connection() {
                conn.abort("the server is a replica now");
            }
            NextStep::Done(Err(error))
        }
        (ReplyClass::UnknownScript, _) if routed.with_source => {
            reject("the server does not know a script whose source was just sent".to_owned())
        }
        (ReplyClass::UnknownScript, _) => {
            routed.with_source = true;
            routed.route = Some((Arc::clone(node), needs_asking));
            NextStep::Resend(routed)
        }
        (ReplyClass::TryAgain(error), _) if Instant::now() + TRY_AGAIN_INTERVAL > deadline => {
            NextStep::Done(Err(error))
        }
        (ReplyClass::TryAgain(_), _) => {
            // The route starts over, because another node may serve the slot by then.
            routed.redirects -= 1;
            NextStep::ResendLater(routed)
        }
        (ReplyClass::Moved(endpoint), Layout::Cluster(cluster)) => {
            routed.route = Some((cluster.record_move(topology, routed.slot, &endpoint), false));
            NextStep::Resend(routed)
        }
        (ReplyClass::Ask(endpoint), Layout::Cluster(cluster)) => {
            routed.route = Some((cluster.node_at(topology, &endpoint), true));
            NextStep::Resend(routed)
        }
        (ReplyClass::Moved(endpoint) | ReplyClass::Ask(endpoint), _) => reject(format!(
            "{} redirects the request to {endpoint}",
            conn.endpoint
        )),
    }
}

fn group_by_node(
    topology: &Topology,
    calls: Vec<RoutedCall>,
    on_reply: &mut (dyn FnMut(usize, CallResult, u32) + Send),
) -> Vec<(Arc<Node>, Vec<RoutedCall>)> {
    let mut groups: Vec<(Arc<Node>, Vec<RoutedCall>)> = Vec::new();
    for routed in calls {
        match routed.node(topology) {
            Ok(node) => match groups
                .iter_mut()
                .find(|(known, _)| Arc::ptr_eq(known, &node))
            {
                Some((_, group)) => group.push(routed),
                None => groups.push((node, vec![routed])),
            },
            Err(error) => on_reply(routed.index, Err(error), 0),
        }
    }
    groups
}

/// Sends a group in one write. Returns a reply for each call and the number of replicas that have
/// acknowledged.
async fn send_group(
    topology: &Topology,
    node: &Arc<Node>,
    calls: &[RoutedCall],
    replicas: Option<ReplicaAck>,
) -> Result<(Arc<Connection>, Vec<RedisResult<Value>>, u32), CallError> {
    let config = &topology.config;
    let conn = node.ready_connection(config).await?;
    if let (None, [routed]) = (replicas, calls)
        && !routed.needs_asking()
    {
        let reply = routed.send(&conn).await;
        return Ok((conn, vec![reply], 0));
    }
    let mut commands = Vec::with_capacity(calls.len());
    for routed in calls {
        if routed.needs_asking() {
            commands.push(cmd("ASKING"));
        }
        commands.push(routed.command());
    }
    let (replies, acks) = match replicas {
        Some(ReplicaAck { count, timeout }) => {
            let endpoint = conn.endpoint.clone();
            let replica_acks = node.replica_acks(config);
            replica_acks
                .send(endpoint, commands, count, timeout)
                .await?
        }
        None => {
            let mut pipe = Pipeline::with_capacity(commands.len());
            for command in commands {
                pipe.add_command(command);
            }
            (conn.pipeline(&pipe).await, 0)
        }
    };
    let replies = match replies {
        Ok(replies) => {
            let mut replies = replies.into_iter();
            calls
                .iter()
                .map(|routed| {
                    if routed.needs_asking() {
                        replies.next();
                    }
                    let reply = replies.next().unwrap_or(Value::Nil);
                    Ok(routed.call.unwrap_reply(reply))
                })
                .collect()
        }
        Err(error) => calls.iter().map(|_| Err(error.clone())).collect(),
    };
    Ok((conn, replies, acks))
}
