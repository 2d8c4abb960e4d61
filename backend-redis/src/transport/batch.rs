//! Requests that come at once, asked as one.
//!
//! A script of items costs the server and the client less for several than for each: its name, the
//! clock, a reply, a timer, a wake-up. So while a request is under way on a connection, others that come
//! are gathered until all who are ready have asked, and run together. Nobody waits for anybody's answer,
//! and who asks alone is sent at once.
//!
//! What was gathered for a connection goes over that one or not at all: who asked has made sure of the
//! server at its other end, and not of one that was started since.
//!
//! What is gathered may overtake what is sent, and the reverse. No request needs another one before
//! it: an attempt that is withdrawn before its answer has come is fenced off.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use redis::{Pipeline, RedisError, RedisResult, Value};
use tokio::{runtime::Handle, sync::oneshot, task::yield_now};

use super::{
    connection::Connection,
    redirect::{RoutedCall, no_reply},
    reply_class::{ReplyClass, classify},
    script_call::{CallError, ScriptCall},
};

/// So many items are one run at the most: a script holds up the whole server.
const MAX_BATCH_SIZE: usize = 32;

/// What came of asking for one item.
#[derive(Debug)]
pub(super) enum Outcome {
    /// This came back for it.
    Replied(RoutedCall, RedisResult<Value>),
    /// The run as a whole was refused, perhaps not for its sake: it has to be asked by itself.
    SendAlone(RoutedCall),
    /// There is no reply.
    Failed(CallError),
}

/// Who waits to be asked over a connection, and how many have not been answered.
#[derive(Debug)]
pub(super) struct Batcher {
    in_flight: AtomicUsize,
    queued: Mutex<Vec<QueuedCall>>,
    /// Where the connection lives. Who asks may be of a runtime that ends before.
    runtime: Handle,
}

#[derive(Debug)]
struct QueuedCall {
    routed: RoutedCall,
    reply_to: oneshot::Sender<Outcome>,
}

impl QueuedCall {
    fn complete(self, outcome: impl FnOnce(RoutedCall) -> Outcome) {
        // Whoever has left needs no answer.
        let _ = self.reply_to.send(outcome(self.routed));
    }
}

/// Counts as under way.
#[derive(Debug)]
struct InFlight<'a>(&'a Batcher);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Batcher {
    /// That of a connection of this runtime.
    pub(super) fn new() -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            queued: Mutex::default(),
            runtime: Handle::current(),
        }
    }

    /// Says whether it is the first one: then somebody has to send them.
    fn push(&self, queued_call: QueuedCall) -> bool {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        queued.push(queued_call);
        queued.len() == 1
    }

    fn drain(&self) -> Vec<QueuedCall> {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *queued)
    }
}

/// Asks for one item of a script of items.
///
/// # Cancel safety
///
/// Once sent, it runs whether or not anybody waits for its answer. It may be sent later.
pub(super) async fn send(conn: &Arc<Connection>, routed: RoutedCall) -> Outcome {
    let batcher = &conn.batcher;
    let in_flight_before = batcher.in_flight.fetch_add(1, Ordering::Relaxed);
    let _in_flight = InFlight(batcher);
    if in_flight_before == 0 {
        let reply = routed.send(conn).await;
        return Outcome::Replied(routed, reply);
    }
    let (reply_to, outcome) = oneshot::channel();
    if batcher.push(QueuedCall { routed, reply_to }) {
        let flush = Flush(Some(Arc::clone(conn)));
        batcher.runtime.spawn(flush.run());
    }
    let outcome = outcome.await;
    outcome.unwrap_or_else(|_| Outcome::Failed(no_reply()))
}

/// The duty to send what is gathered.
struct Flush(Option<Arc<Connection>>);

impl Drop for Flush {
    fn drop(&mut self) {
        // Its runtime ends, and the connection with it: nobody must wait for this turn.
        if let Some(conn) = self.0.take() {
            drop(conn.batcher.drain());
        }
    }
}

impl Flush {
    /// Sends them, in one write.
    async fn run(mut self) {
        // Whoever was woken by the same replies as the first one has a turn to ask.
        yield_now().await;
        let Some(conn) = self.0.take() else { return };
        let groups = group_by_script(conn.batcher.drain());
        let mut pipe = Pipeline::with_capacity(groups.len());
        for group in &groups {
            if let Some(command) =
                ScriptCall::batch_command(group.iter().map(|queued_call| &queued_call.routed.call))
            {
                pipe.add_command(command);
            }
        }
        match conn.pipeline(&pipe).await {
            Ok(replies) => {
                for (group, reply) in groups.into_iter().zip(replies) {
                    dispatch_reply(group, &conn, reply);
                }
            }
            Err(error) => {
                for queued_call in groups.into_iter().flatten() {
                    let error = Err(error.clone());
                    queued_call.complete(|routed| Outcome::Replied(routed, error));
                }
            }
        }
    }
}

/// Those that one run can answer, in the order in which they came.
fn group_by_script(queued: Vec<QueuedCall>) -> Vec<Vec<QueuedCall>> {
    let mut groups: Vec<Vec<QueuedCall>> = Vec::new();
    for queued_call in queued {
        let fits = |group: &&mut Vec<QueuedCall>| {
            let first = group.first();
            group.len() < MAX_BATCH_SIZE
                && first
                    .is_some_and(|first| first.routed.call.can_batch_with(&queued_call.routed.call))
        };
        match groups.iter_mut().rev().find(fits) {
            Some(group) => group.push(queued_call),
            None => groups.push(vec![queued_call]),
        }
    }
    groups
}

/// Tells each of a group what a reply says of it.
fn dispatch_reply(group: Vec<QueuedCall>, conn: &Connection, reply: Value) {
    let replied = Outcome::Replied;
    match reply {
        Value::Array(replies) if replies.len() == group.len() => {
            for (queued_call, reply_of_call) in group.into_iter().zip(replies) {
                queued_call.complete(|routed| replied(routed, Ok(reply_of_call)));
            }
        }
        reply => {
            let alone = group.len() == 1;
            for queued_call in group {
                queued_call.complete(|routed| match &reply {
                    // What is said to one alone is meant for it.
                    reply if alone => replied(routed, Ok(reply.clone())),
                    reply if is_not_executed(reply, conn) => Outcome::SendAlone(routed),
                    _ => replied(routed, Err(script_aborted())),
                });
            }
        }
    }
}

/// Whether nothing at all was carried out.
fn is_not_executed(reply: &Value, conn: &Connection) -> bool {
    !matches!(
        classify(Ok(reply.clone()), &conn.endpoint),
        ReplyClass::Final(
            Ok(_) | Err(CallError::ScriptFailed { .. } | CallError::OutcomeUnknown(_))
        )
    )
}

/// The script ended in the middle: whether an item was carried out is not known.
fn script_aborted() -> RedisError {
    (redis::ErrorKind::Client, "the script was cut short").into()
}
