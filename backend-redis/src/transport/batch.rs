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

use redis::{Pipeline, Value};
use tokio::{runtime::Handle, sync::oneshot, task::yield_now};

use super::{
    connection::Connection,
    reply_class::{ReplyClass, classify},
    script_call::{CallError, CallResult, ScriptCall},
};

/// The most items in one run. While a script runs, the server serves nobody else.
const MAX_BATCH_SIZE: usize = 32;

/// A connection with its queued calls, and the number of calls that have no reply yet.
#[derive(Debug)]
pub(super) struct BatchedConnection {
    pub(super) conn: Arc<Connection>,
    in_flight: AtomicUsize,
    queued: Mutex<Vec<QueuedCall>>,
    /// The runtime of the connection. The runtime of a caller may end earlier.
    runtime: Handle,
}

#[derive(Debug)]
struct QueuedCall {
    call: Arc<ScriptCall>,
    reply_to: oneshot::Sender<CallResult>,
}

impl QueuedCall {
    fn complete(self, reply: CallResult) {
        // A cancelled caller needs no reply.
        let _ = self.reply_to.send(reply);
    }
}

/// Counts one call as in flight until it is dropped.
#[derive(Debug)]
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BatchedConnection {
    /// Takes a connection that lives on the current runtime.
    pub(super) fn new(conn: Arc<Connection>) -> Self {
        Self {
            conn,
            in_flight: AtomicUsize::new(0),
            queued: Mutex::default(),
            runtime: Handle::current(),
        }
    }

    /// Sends one call of a batchable script and returns the server's reply to it.
    ///
    /// # Cancel safety
    ///
    /// Once queued or sent, the call runs even if the caller is cancelled. A queued call may be
    /// sent later.
    pub(super) async fn send(self: &Arc<Self>, call: &Arc<ScriptCall>) -> CallResult {
        let in_flight_before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let _in_flight = InFlight(&self.in_flight);
        if in_flight_before == 0 {
            return self.conn.call(call).await;
        }
        let (reply_to, reply) = oneshot::channel();
        let call = Arc::clone(call);
        if self.push(QueuedCall { call, reply_to }) {
            self.runtime.spawn(Flush(Some(Arc::clone(self))).run());
        }
        reply.await.unwrap_or_else(|_| Err(CallError::no_reply()))
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

/// The obligation to send the queued calls.
struct Flush(Option<Arc<BatchedConnection>>);

impl Drop for Flush {
    fn drop(&mut self) {
        // The runtime is shutting down, and the connection with it. Dropping the queued calls wakes
        // their callers.
        if let Some(batched) = self.0.take() {
            drop(batched.drain());
        }
    }
}

impl Flush {
    async fn run(mut self) {
        // Tasks that the same replies woke get a chance to queue their calls first.
        yield_now().await;
        let Some(batched) = self.0.take() else { return };
        let conn = &batched.conn;
        let rejected = send_groups(conn, group_by_script(batched.drain())).await;
        if !rejected.is_empty() {
            let alone = rejected.into_iter().map(|queued_call| vec![queued_call]);
            send_groups(conn, alone.collect()).await;
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
                && first.is_some_and(|first| first.call.can_batch_with(&queued_call.call))
        };
        match groups.iter_mut().rev().find(fits) {
            Some(group) => group.push(queued_call),
            None => groups.push(vec![queued_call]),
        }
    }
    groups
}

/// Sends one run for each group, all in one write. Returns the calls of the runs that the server
/// rejected as a whole, perhaps because of a single call. They have to be sent alone.
async fn send_groups(conn: &Connection, groups: Vec<Vec<QueuedCall>>) -> Vec<QueuedCall> {
    let mut pipe = Pipeline::with_capacity(groups.len());
    for group in &groups {
        let calls = group.iter().map(|queued_call| &*queued_call.call);
        pipe.add_command(ScriptCall::command(calls, false));
    }
    let replies = match conn.pipeline(&pipe).await {
        Ok(replies) => replies,
        Err(error) => {
            for queued_call in groups.into_iter().flatten() {
                queued_call.complete(Err(error.clone().into()));
            }
            return Vec::new();
        }
    };
    let mut rejected = Vec::new();
    for (mut group, reply) in groups.into_iter().zip(replies) {
        match reply {
            Value::Array(replies) if replies.len() == group.len() => {
                for (queued_call, reply) in group.into_iter().zip(replies) {
                    queued_call.complete(Ok(reply));
                }
            }
            reply if group.len() == 1 => {
                if let Some(only) = group.pop() {
                    only.complete(Ok(reply));
                }
            }
            reply if is_rejection(reply.clone(), conn) => rejected.append(&mut group),
            // The script ended halfway, so it is unknown whether an item was executed.
            _ => group
                .into_iter()
                .for_each(|queued_call| queued_call.complete(Err(CallError::no_reply()))),
        }
    }
    rejected
}

/// Whether the reply shows that nothing was executed.
fn is_rejection(reply: Value, conn: &Connection) -> bool {
    !matches!(
        classify(reply, &conn.endpoint),
        ReplyClass::Final(
            Ok(_) | Err(CallError::ScriptFailed { .. } | CallError::OutcomeUnknown(_))
        )
    )
}
