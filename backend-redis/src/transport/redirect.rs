//! Sends scripts, and follows where the servers send them.
//!
//! Nothing is sent twice, except what a server has said that it did not carry out: a script that it
//! does not know (then its text is sent), a slot that is elsewhere, keys that are on the move.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, Pipeline, RedisResult, Value, cmd};
use tokio::time::Instant;

use super::{
    batch::{self, Outcome},
    connection::Connection,
    node::{Node, unsent},
    reply_class::{ReplyClass, judge},
    script_call::{CallError, CallResult, ScriptCall},
    topology::{Layout, Topology},
};

/// More hops than a slot can have made.
const MAX_REDIRECTS: u32 = 8;
/// For so long a request whose keys are on the move is tried again.
const TRY_AGAIN_TIMEOUT: Duration = Duration::from_millis(100);
/// ... at this interval.
const TRY_AGAIN_INTERVAL: Duration = Duration::from_millis(15);

/// One script on its way.
#[derive(Debug)]
pub(super) struct RoutedCall {
    index: usize,
    pub(super) call: ScriptCall,
    slot: u16,
    /// Whether its text is sent.
    whole: bool,
    /// Where it goes, if not to the owner of its slot; and whether only for this once.
    via: Option<(Arc<Node>, bool)>,
    redirects: u32,
}

impl RoutedCall {
    pub(super) const fn new(index: usize, call: ScriptCall, slot: u16) -> Self {
        Self {
            index,
            call,
            slot,
            whole: false,
            via: None,
            redirects: 0,
        }
    }

    fn command(&self) -> Cmd {
        self.call.command(self.whole)
    }

    /// Asks for it alone.
    pub(super) async fn ask(&self, conn: &Connection) -> RedisResult<Value> {
        let reply = conn.command(&self.command()).await;
        reply.map(|reply| self.call.reply(reply))
    }

    fn asking(&self) -> bool {
        matches!(&self.via, Some((_, true)))
    }

    fn node(&self, core: &Topology) -> Result<Arc<Node>, CallError> {
        match &self.via {
            Some((node, _)) => Ok(Arc::clone(node)),
            None => core.owner(self.slot),
        }
    }
}

/// What is asked of the replicas.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplicaAck {
    pub(super) count: u32,
    pub(super) patience: Duration,
}

/// Runs them all, with one write to each node; `each` hears every answer, with the number of
/// replicas that have acknowledged it (0 if none were asked).
pub(super) async fn run(
    core: &Arc<Topology>,
    items: Vec<RoutedCall>,
    replicas: Option<ReplicaAck>,
    each: &mut (dyn FnMut(usize, CallResult, u32) + Send),
) {
    let until = Instant::now() + TRY_AGAIN_TIMEOUT;
    let mut items = items;
    loop {
        let mut again = Vec::new();
        let mut pause = false;
        for (node, group) in by_node(core, items, each) {
            let (conn, replies, acknowledged) = match send(core, &node, &group, replicas).await {
                Ok(sent) => sent,
                Err(fault) => {
                    for item in group {
                        each(item.index, Err(fault.clone()), 0);
                    }
                    continue;
                }
            };
            for (item, reply) in group.into_iter().zip(replies) {
                let index = item.index;
                match follow(core, &node, &conn, item, reply, until) {
                    NextStep::Done(answer) => each(index, answer, acknowledged),
                    NextStep::Again(item) => again.push(item),
                    NextStep::Later(item) => {
                        pause = true;
                        again.push(item);
                    }
                }
            }
        }
        if again.is_empty() {
            return;
        }
        if pause {
            tokio::time::sleep(TRY_AGAIN_INTERVAL).await;
        }
        items = again;
    }
}

/// Runs one script. The usual case costs no more than the request itself.
pub(super) async fn run_one(core: &Arc<Topology>, item: RoutedCall) -> CallResult {
    let node = item.node(core)?;
    let conn = node.conn(&core.settings).await?;
    // In a cluster, two locks are hardly ever in one slot.
    let outcome = if item.call.is_item() && !core.settings.is_cluster() {
        batch::ask(&conn, item).await
    } else {
        let reply = item.ask(&conn).await;
        Outcome::Replied(item, reply)
    };
    let item = match outcome {
        Outcome::Failed(fault) => return Err(fault),
        Outcome::Apart(item) => item,
        Outcome::Replied(item, reply) => {
            let until = Instant::now() + TRY_AGAIN_TIMEOUT;
            match follow(core, &node, &conn, item, reply, until) {
                NextStep::Done(answer) => return answer,
                NextStep::Again(item) | NextStep::Later(item) => item,
            }
        }
    };
    let mut answer = None;
    run(core, vec![item], None, &mut |_, heard, _| {
        answer = Some(heard);
    })
    .await;
    answer.unwrap_or_else(|| Err(unheard()))
}

/// The answer of whoever did not come to answer: nothing is known.
pub(super) fn unheard() -> CallError {
    CallError::Unanswered((redis::ErrorKind::Client, "no answer was heard").into())
}

/// What becomes of an item after a reply.
enum NextStep {
    Done(CallResult),
    /// It is sent again, as it is now.
    Again(RoutedCall),
    /// The same after a pause.
    Later(RoutedCall),
}

fn follow(
    core: &Arc<Topology>,
    node: &Arc<Node>,
    conn: &Connection,
    mut item: RoutedCall,
    reply: RedisResult<Value>,
    until: Instant,
) -> NextStep {
    let verdict = match judge(reply, &conn.place) {
        ReplyClass::Done(answer) => return NextStep::Done(answer),
        verdict => verdict,
    };
    let refuse = |what: String| NextStep::Done(Err(unsent(what)));
    let asking = item.asking();
    item.redirects += 1;
    item.via = None;
    if item.redirects >= MAX_REDIRECTS {
        return refuse("the servers of the cluster send it in a circle".to_owned());
    }
    match (verdict, &core.layout) {
        (ReplyClass::Done(answer), _) => NextStep::Done(answer),
        (ReplyClass::Demoted(fault), _) => {
            conn.give_up("it is a replica now");
            // The reply may have come over the connection that waits for replicas.
            if let Some(conn) = node.up() {
                conn.give_up("it is a replica now");
            }
            NextStep::Done(Err(fault))
        }
        (ReplyClass::Unknown, _) if item.whole => {
            refuse("the server forgets its scripts".to_owned())
        }
        (ReplyClass::Unknown, _) => {
            item.whole = true;
            item.via = Some((Arc::clone(node), asking));
            NextStep::Again(item)
        }
        (ReplyClass::TryAgain(fault), _) if Instant::now() + TRY_AGAIN_INTERVAL > until => {
            NextStep::Done(Err(fault))
        }
        (ReplyClass::TryAgain(_), _) => {
            // From the start: by then the slot may be served elsewhere.
            item.redirects -= 1;
            NextStep::Later(item)
        }
        (ReplyClass::Moved(place), Layout::Cluster(cluster)) => {
            item.via = Some((cluster.moved(core, item.slot, &place), false));
            NextStep::Again(item)
        }
        (ReplyClass::Ask(place), Layout::Cluster(cluster)) => {
            item.via = Some((cluster.node_at(core, &place), true));
            NextStep::Again(item)
        }
        (ReplyClass::Moved(place) | ReplyClass::Ask(place), _) => {
            refuse(format!("{} sends it to {place}", conn.place))
        }
    }
}

fn by_node(
    core: &Topology,
    items: Vec<RoutedCall>,
    each: &mut (dyn FnMut(usize, CallResult, u32) + Send),
) -> Vec<(Arc<Node>, Vec<RoutedCall>)> {
    let mut groups: Vec<(Arc<Node>, Vec<RoutedCall>)> = Vec::new();
    for item in items {
        match item.node(core) {
            Ok(node) => match groups
                .iter_mut()
                .find(|(known, _)| Arc::ptr_eq(known, &node))
            {
                Some((_, group)) => group.push(item),
                None => groups.push((node, vec![item])),
            },
            Err(fault) => each(item.index, Err(fault), 0),
        }
    }
    groups
}

/// One write: a reply for each item, and how many replicas have acknowledged.
async fn send(
    core: &Topology,
    node: &Arc<Node>,
    items: &[RoutedCall],
    replicas: Option<ReplicaAck>,
) -> Result<(Arc<Connection>, Vec<RedisResult<Value>>, u32), CallError> {
    let settings = &core.settings;
    let conn = node.conn(settings).await?;
    if let (None, [item]) = (replicas, items)
        && !item.asking()
    {
        let reply = item.ask(&conn).await;
        return Ok((conn, vec![reply], 0));
    }
    let mut commands = Vec::with_capacity(items.len());
    for item in items {
        if item.asking() {
            commands.push(cmd("ASKING"));
        }
        commands.push(item.command());
    }
    let (replies, acknowledged) = match replicas {
        Some(ReplicaAck { count, patience }) => {
            let place = conn.place.clone();
            let way = node.replicas(settings);
            way.send(place, commands, count, patience).await?
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
            items
                .iter()
                .map(|item| {
                    if item.asking() {
                        replies.next();
                    }
                    let reply = replies.next().unwrap_or(Value::Nil);
                    Ok(item.call.reply(reply))
                })
                .collect()
        }
        Err(error) => items.iter().map(|_| Err(error.clone())).collect(),
    };
    Ok((conn, replies, acknowledged))
}
