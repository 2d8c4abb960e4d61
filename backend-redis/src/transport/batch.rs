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
    redirect::{RoutedCall, unheard},
    reply_class::{ReplyClass, judge},
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
    Apart(RoutedCall),
    /// There is no reply.
    Failed(CallError),
}

/// Who waits to be asked over a connection, and how many have not been answered.
#[derive(Debug)]
pub(super) struct Batcher {
    under_way: AtomicUsize,
    waiting: Mutex<Vec<QueuedCall>>,
    /// Where the connection lives. Who asks may be of a runtime that ends before.
    home: Handle,
}

#[derive(Debug)]
struct QueuedCall {
    item: RoutedCall,
    heard: oneshot::Sender<Outcome>,
}

impl QueuedCall {
    fn hear(self, outcome: impl FnOnce(RoutedCall) -> Outcome) {
        // Whoever has left needs no answer.
        let _ = self.heard.send(outcome(self.item));
    }
}

/// Counts as under way.
#[derive(Debug)]
struct InFlight<'a>(&'a Batcher);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Batcher {
    /// That of a connection of this runtime.
    pub(super) fn new() -> Self {
        Self {
            under_way: AtomicUsize::new(0),
            waiting: Mutex::default(),
            home: Handle::current(),
        }
    }

    /// Says whether it is the first one: then somebody has to send them.
    fn add(&self, one: QueuedCall) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(one);
        waiting.len() == 1
    }

    fn take(&self) -> Vec<QueuedCall> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *waiting)
    }
}

/// Asks for one item of a script of items.
///
/// # Cancel safety
///
/// Once sent, it runs whether or not anybody waits for its answer. It may be sent later.
pub(super) async fn ask(conn: &Arc<Connection>, item: RoutedCall) -> Outcome {
    let batcher = &conn.batcher;
    let others = batcher.under_way.fetch_add(1, Ordering::Relaxed);
    let _under_way = InFlight(batcher);
    if others == 0 {
        let reply = item.ask(conn).await;
        return Outcome::Replied(item, reply);
    }
    let (heard, outcome) = oneshot::channel();
    if batcher.add(QueuedCall { item, heard }) {
        let turn = Flush(Some(Arc::clone(conn)));
        batcher.home.spawn(turn.send());
    }
    let outcome = outcome.await;
    outcome.unwrap_or_else(|_| Outcome::Failed(unheard()))
}

/// The duty to send what is gathered.
struct Flush(Option<Arc<Connection>>);

impl Drop for Flush {
    fn drop(&mut self) {
        // Its runtime ends, and the connection with it: nobody must wait for this turn.
        if let Some(conn) = self.0.take() {
            drop(conn.batcher.take());
        }
    }
}

impl Flush {
    /// Sends them, in one write.
    async fn send(mut self) {
        // Whoever was woken by the same replies as the first one has a turn to ask.
        yield_now().await;
        let Some(conn) = self.0.take() else { return };
        let groups = grouped(conn.batcher.take());
        let mut pipe = Pipeline::with_capacity(groups.len());
        for group in &groups {
            if let Some(command) = ScriptCall::together(group.iter().map(|one| &one.item.call)) {
                pipe.add_command(command);
            }
        }
        match conn.pipeline(&pipe).await {
            Ok(replies) => {
                for (group, reply) in groups.into_iter().zip(replies) {
                    tell(group, &conn, reply);
                }
            }
            Err(error) => {
                for one in groups.into_iter().flatten() {
                    let error = Err(error.clone());
                    one.hear(|item| Outcome::Replied(item, error));
                }
            }
        }
    }
}

/// Those that one run can answer, in the order in which they came.
fn grouped(waiting: Vec<QueuedCall>) -> Vec<Vec<QueuedCall>> {
    let mut groups: Vec<Vec<QueuedCall>> = Vec::new();
    for one in waiting {
        let fits = |group: &&mut Vec<QueuedCall>| {
            let first = group.first();
            group.len() < MAX_BATCH_SIZE
                && first.is_some_and(|first| first.item.call.joins(&one.item.call))
        };
        match groups.iter_mut().rev().find(fits) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    groups
}

/// Tells each of a group what a reply says of it.
fn tell(group: Vec<QueuedCall>, conn: &Connection, reply: Value) {
    let replied = Outcome::Replied;
    match reply {
        Value::Array(answers) if answers.len() == group.len() => {
            for (one, answer) in group.into_iter().zip(answers) {
                one.hear(|item| replied(item, Ok(answer)));
            }
        }
        reply => {
            let alone = group.len() == 1;
            for one in group {
                one.hear(|item| match &reply {
                    // What is said to one alone is meant for it.
                    reply if alone => replied(item, Ok(reply.clone())),
                    reply if is_refusal(reply, conn) => Outcome::Apart(item),
                    _ => replied(item, Err(cut_short())),
                });
            }
        }
    }
}

/// Whether nothing at all was carried out.
fn is_refusal(reply: &Value, conn: &Connection) -> bool {
    !matches!(
        judge(Ok(reply.clone()), &conn.place),
        ReplyClass::Done(Ok(_) | Err(CallError::Failed { .. } | CallError::Unanswered(_)))
    )
}

/// The script ended in the middle: whether an item was carried out is not known.
fn cut_short() -> RedisError {
    (redis::ErrorKind::Client, "the script was cut short").into()
}
