//! Sends calls and follows redirections.
//!
//! A call is resent only if the server reported that it did not execute it: because it does not
//! know the script (then its source is sent), because another node serves the slot, or because the
//! keys are being moved.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, Pipeline, Value, cmd};
use tokio::time::Instant;

use super::{
    connection::Connection,
    node::Node,
    replica_ack::ReplicaAck,
    reply_class::{ReplyClass, classify},
    script_call::{CallError, CallResult, ScriptCall},
    supervisor,
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
    call: ScriptCall,
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
        ScriptCall::command(std::iter::once(&self.call), self.with_source)
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
            let conn = match node.ready_connection(&topology.config).await {
                Ok(batched) => Arc::clone(&batched.conn),
                Err(error) => {
                    fail_group(group, &error, on_reply);
                    continue;
                }
            };
            let (replies, acks) = match send_group(topology, &node, &conn, &group, replicas).await {
                Ok(replies) => replies,
                Err(error) => {
                    fail_group(group, &error, on_reply);
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
pub(super) async fn run_one(topology: &Arc<Topology>, call: ScriptCall, slot: u16) -> CallResult {
    let node = topology.owner(slot)?;
    let batched = node.ready_connection(&topology.config).await?;
    // In a cluster, two locks are rarely in the same slot.
    let (call, reply) = if call.is_batchable() && !topology.config.is_cluster() {
        let call = Arc::new(call);
        let reply = batched.send(&call).await?;
        (Arc::unwrap_or_clone(call), reply)
    } else {
        let reply = batched.conn.call(&call).await?;
        (call, reply)
    };
    let routed = RoutedCall::new(0, call, slot);
    let deadline = Instant::now() + TRY_AGAIN_TIMEOUT;
    let routed = match handle_reply(topology, &node, &batched.conn, routed, reply, deadline) {
        NextStep::Done(result) => return result,
        NextStep::Resend(routed) | NextStep::ResendLater(routed) => routed,
    };
    let mut answer = Err(CallError::no_reply());
    run_all(topology, vec![routed], None, &mut |_, result, _| {
        answer = result;
    })
    .await;
    answer
}

/// The next action for a call after a reply.
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
    reply: Value,
    deadline: Instant,
) -> NextStep {
    let class = match classify(reply, &conn.endpoint) {
        ReplyClass::Final(result) => return NextStep::Done(result),
        class => class,
    };
    let reject = |detail: String| NextStep::Done(Err(CallError::not_sent(detail)));
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
            let node = supervisor::redirect_target(topology, cluster, &endpoint);
            cluster.record_move(routed.slot, &endpoint);
            routed.route = Some((node, false));
            NextStep::Resend(routed)
        }
        (ReplyClass::Ask(endpoint), Layout::Cluster(cluster)) => {
            let node = supervisor::redirect_target(topology, cluster, &endpoint);
            routed.route = Some((node, true));
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

fn fail_group(
    group: Vec<RoutedCall>,
    error: &CallError,
    on_reply: &mut (dyn FnMut(usize, CallResult, u32) + Send),
) {
    for routed in group {
        on_reply(routed.index, Err(error.clone()), 0);
    }
}

/// Sends a group in one write. Returns a reply for each call and the number of replicas that have
/// acknowledged.
async fn send_group(
    topology: &Topology,
    node: &Node,
    conn: &Connection,
    calls: &[RoutedCall],
    replicas: Option<ReplicaAck>,
) -> Result<(Vec<Value>, u32), CallError> {
    let mut commands = Vec::with_capacity(calls.len());
    for routed in calls {
        if routed.needs_asking() {
            commands.push(cmd("ASKING"));
        }
        commands.push(routed.command());
    }
    let (replies, acks) = match replicas {
        Some(wanted) => {
            let replica_acks = node.replica_acks(&topology.config);
            let endpoint = conn.endpoint.clone();
            replica_acks.send(endpoint, commands, wanted).await?
        }
        None => {
            let mut pipe = Pipeline::with_capacity(commands.len());
            for command in commands {
                pipe.add_command(command);
            }
            (conn.pipeline(&pipe).await?, 0)
        }
    };
    let mut replies = replies.into_iter();
    let replies_of_calls = calls.iter().map(|routed| {
        if routed.needs_asking() {
            replies.next();
        }
        let reply = replies.next().unwrap_or(Value::Nil);
        routed.call.unwrap_reply(reply)
    });
    Ok((replies_of_calls.collect(), acks))
}
