//! Watching keys: one stream for every key that this client waits for or holds.
//!
//! Each attempt has one watch. An exclusive waiter that is next in line watches its predecessor and its own
//! key with one watch, because the server orders the events of one watch but not those of two: the
//! removal of the predecessor then proves that the waiter's own entry still exists. A waiter
//! further back watches the contender before its predecessor, and prepares for its turn when that
//! one is gone. A waiter that is not exclusive watches one entry; the first waiter behind holders of
//! permits watches all keys of the lock.
//!
//! The stream is opened again when it ends, when its server stops answering, and when the
//! connection changes. The watch of a holder restarts at a revision from which it misses nothing; if
//! that part of the history is compacted, a read takes its place. A server catches up with watches
//! that start in the past only every 100 ms, so the watches of waiters start now; if the store has
//! moved on since the position was read, one more read checks it.

pub(crate) mod active;
pub(crate) mod progress_requests;
pub(crate) mod task;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tenure_core::id::AttemptId;
use tokio::{
    sync::{mpsc, oneshot},
    time,
};

use crate::{
    admission::Until,
    attempts::{Attempt, Stage},
};

/// Starts and stops watches. Never blocks.
pub(crate) struct Watcher {
    commands: mpsc::UnboundedSender<Command>,
    ids: Arc<AtomicU64>,
    /// Incremented with every stream.
    stream_id: Arc<AtomicU64>,
}

pub(crate) enum Command {
    Start(u64, Watch),
    Stop(u64),
    KeepForHolder(u64),
    RequestProgress(oneshot::Sender<()>),
}

/// One watch, and the keys that it reports.
pub(crate) struct Watch {
    pub(crate) target: WatchTarget,
    pub(crate) attempt: AttemptId,
    /// The key of the attempt.
    pub(crate) own: Arc<str>,
    /// Events before this revision are out of date.
    pub(crate) from: i64,
}

impl Watch {
    /// Prepares a watch for a new stream. The command that keeps the watch of a new holder may still
    /// be queued, so the stage of the attempt decides.
    pub(crate) fn prepare_restart(&mut self, entry: &Attempt) {
        if entry.stage == Stage::Holding {
            self.target = WatchTarget::Own;
        }
        if self.target == WatchTarget::Own {
            self.from = self.from.max(entry.verified_revision + 1);
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WatchTarget {
    /// The key of a holder.
    Own,
    /// The key of a waiter, and the one of its predecessor.
    Next { predecessor: Arc<str> },
    /// The contender in front of a waiter's predecessor.
    Before { key: Arc<str> },
    /// The entry that a waiter waits for, and the change that it waits for.
    Entry { key: Arc<str>, until: Until },
    /// All keys of the lock.
    Queue { prefix: Arc<str> },
}

/// A request to learn whether the stream is alive.
#[derive(Debug)]
pub(crate) struct ProgressRequest {
    reply: Option<oneshot::Receiver<()>>,
    is_alive: bool,
    timeout: Duration,
}

impl ProgressRequest {
    /// Whether the stream has answered since the request was made.
    pub(crate) async fn is_alive(&mut self) -> bool {
        if let Some(reply) = self.reply.take() {
            let reply = time::timeout(self.timeout, reply).await;
            self.is_alive = matches!(reply, Ok(Ok(())));
        }
        self.is_alive
    }
}

impl Watcher {
    /// Returns a watcher and the input of its task.
    pub(crate) fn new() -> (Self, TaskInput) {
        let (commands, input) = mpsc::unbounded_channel();
        let watcher = Self {
            commands,
            ids: Arc::new(AtomicU64::new(1)),
            stream_id: Arc::default(),
        };
        let input = TaskInput {
            commands: input,
            ids: Arc::clone(&watcher.ids),
            stream_id: Arc::clone(&watcher.stream_id),
        };
        (watcher, input)
    }

    /// Returns a watch id that was never used.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// The id of the stream that is open.
    pub(crate) fn stream_id(&self) -> u64 {
        self.stream_id.load(Ordering::SeqCst)
    }

    /// Starts a watch.
    pub(crate) fn start(&self, id: u64, watch: Watch) {
        let _ = self.commands.send(Command::Start(id, watch));
    }

    /// Stops a watch; 0 is none.
    pub(crate) fn stop(&self, id: u64) {
        if id != 0 {
            let _ = self.commands.send(Command::Stop(id));
        }
    }

    /// Keeps the watch of a waiter that has become the holder.
    pub(crate) fn keep_for_holder(&self, id: u64) {
        let _ = self.commands.send(Command::KeepForHolder(id));
    }

    /// Requests a sign of life from the stream.
    pub(crate) fn request_progress(&self, timeout: Duration) -> ProgressRequest {
        let (sender, reply) = oneshot::channel();
        let _ = self.commands.send(Command::RequestProgress(sender));
        ProgressRequest {
            reply: Some(reply),
            is_alive: false,
            timeout,
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("stream", &self.stream_id())
            .finish_non_exhaustive()
    }
}

/// The input of the task.
pub(crate) struct TaskInput {
    commands: mpsc::UnboundedReceiver<Command>,
    ids: Arc<AtomicU64>,
    stream_id: Arc<AtomicU64>,
}
