//! Combines concurrent calls of one script into one run.
//!
//! One run for several items costs the server and the client less than one run each: it saves
//! script names, clock reads, replies, timers and wake-ups. While a call is in flight on a
//! connection, further calls are queued until every task that is ready has queued its own; then
//! they run together. No call waits for the reply to another call, and a lone call is sent at once.
//!
//! A queued call is sent over the connection that it was queued for, or not at all. The caller has
//! verified the server at the other end of that connection (for instance that it may grant locks),
//! not a server that started later.
//!
//! Queued calls may overtake calls that were sent directly, and the reverse. No call depends on the
//! order of two calls: an attempt that is withdrawn before its reply arrives is fenced off.

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

/// The most items in one run. While a script runs, the server serves nobody else.
const MAX_BATCH_SIZE: usize = 32;

/// The outcome of one call.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The server replied to this call.
    Replied(RoutedCall, RedisResult<Value>),
    /// The server rejected the run as a whole, perhaps because of another item. The call has to be
    /// sent alone.
    SendAlone(RoutedCall),
    /// There is no reply.
    Failed(CallError),
}

/// The queued calls of a connection, and the number of calls that have no reply yet.
#[derive(Debug)]
pub(super) struct Batcher {
    in_flight: AtomicUsize,
    queued: Mutex<Vec<QueuedCall>>,
    /// The runtime of the connection. The runtime of a caller may end earlier.
    runtime: Handle,
}

#[derive(Debug)]
struct QueuedCall {
    routed: RoutedCall,
    reply_to: oneshot::Sender<Outcome>,
}

impl QueuedCall {
    fn complete(self, outcome: impl FnOnce(RoutedCall) -> Outcome) {
        // A cancelled caller needs no reply.
        let _ = self.reply_to.send(outcome(self.routed));
    }
}

/// Counts one call as in flight until it is dropped.
#[derive(Debug)]
struct InFlight<'a>(&'a Batcher);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Batcher {
    /// Creates the batcher of a connection that lives on the current runtime.
    pub(super) fn new() -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            queued: Mutex::default(),
            runtime: Handle::current(),
        }
    }

    /// Adds a call. Returns whether it is the first one, in which case the caller has to start a
    /// flush.
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

/// Sends one call of a batchable script.
///
/// # Cancel safety
///
/// Once queued or sent, the call runs even if the caller is cancelled. A queued call may be sent
/// later.
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

/// The obligation to send the queued calls.
struct Flush(Option<Arc<Connection>>);

impl Drop for Flush {
    fn drop(&mut self) {
        // The runtime is shutting down, and the connection with it. Dropping the queued calls wakes
        // their callers.
        if let Some(conn) = self.0.take() {
            drop(conn.batcher.drain());
        }
    }
}

impl Flush {
    /// Sends the queued calls in one write.
    async fn run(mut self) {
        // Tasks that the same replies woke get a chance to queue their calls first.
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

/// Groups the calls that one run can answer, in the order in which they were queued.
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

/// Gives each call of a group its part of the reply.
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
                    // A reply to a single call is meant for that call.
                    reply if alone => replied(routed, Ok(reply.clone())),
                    reply if is_not_executed(reply, conn) => Outcome::SendAlone(routed),
                    _ => replied(routed, Err(script_aborted())),
                });
            }
        }
    }
}

/// Whether the reply shows that nothing was executed.
fn is_not_executed(reply: &Value, conn: &Connection) -> bool {
    !matches!(
        classify(Ok(reply.clone()), &conn.endpoint),
        ReplyClass::Final(
            Ok(_) | Err(CallError::ScriptFailed { .. } | CallError::OutcomeUnknown(_))
        )
    )
}

/// The script ended halfway, so it is unknown whether an item was executed.
fn script_aborted() -> RedisError {
    (redis::ErrorKind::Client, "the script was aborted").into()
}
