//! Watching keys: one stream for every key that this client waits for or holds.
//!
//! A watch reports the deletion of its key and then ends. The stream is opened again when it ends,
//! when its server stops answering, and when the connection changes; each watch then restarts at a
//! revision from which it misses nothing. If that part of the history is compacted, a read takes
//! its place.
//!
//! A server catches up with watches that start in the past only every 100 ms. So the watch of a
//! predecessor starts now; if the store has moved on since the predecessor was seen, one more read
//! checks whether the predecessor still exists. The watch of an own key is deferred a little,
//! because the reply to its removal usually arrives earlier.

mod active;
mod deferred;
mod progress_requests;
mod task;

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
    time::{self, Instant},
};

use self::deferred::DeferredWatches;
pub(crate) use self::task::WatchTask;
use crate::shared::Shared;

/// Starts and stops watches. Never blocks.
pub(crate) struct Watcher {
    commands: mpsc::UnboundedSender<Command>,
    deferred: Arc<DeferredWatches>,
    ids: Arc<AtomicU64>,
    /// Incremented with every stream.
    stream_id: Arc<AtomicU64>,
}

enum Command {
    Start(u64, Watch),
    Stop(u64),
    /// A watch was deferred.
    DeferredAdded,
    RequestProgress(oneshot::Sender<()>),
}

struct Watch {
    target: WatchTarget,
    attempt: AttemptId,
    key: Arc<str>,
    /// The first revision that the watch has to report.
    from: i64,
    /// It starts later than that revision.
    starts_late: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WatchTarget {
    /// An attempt's own key.
    Own,
    /// The key that an attempt waits for. Not `immediate`: the key is one of this client, whose
    /// removal reports earlier.
    Predecessor { immediate: bool },
}

impl WatchTarget {
    fn is_predecessor(self) -> bool {
        matches!(self, Self::Predecessor { .. })
    }

    fn is_immediate(self) -> bool {
        matches!(self, Self::Predecessor { immediate: true })
    }
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
            deferred: Arc::default(),
            ids: Arc::new(AtomicU64::new(1)),
            stream_id: Arc::default(),
        };
        let input = TaskInput {
            commands: input,
            deferred: Arc::clone(&watcher.deferred),
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

    /// Watches an attempt's own key.
    pub(crate) fn watch_own(&self, shared: &Shared, attempt: AttemptId) {
        let id = self.next_id();
        let watch = shared.attempts.update(attempt, |entry| {
            entry.own_watch = id;
            Watch {
                target: WatchTarget::Own,
                attempt,
                key: Arc::clone(&entry.key),
                from: entry.revision.max(entry.verified_revision) + 1,
                starts_late: false,
            }
        });
        if let Some(watch) = watch {
            self.start(id, watch);
        }
    }

    /// Watches the key that an attempt waits for: at once if `immediate`; otherwise a little later,
    /// because the removal of that key by this client reports its end.
    pub(crate) fn watch_predecessor(
        &self,
        attempt: AttemptId,
        key: String,
        id: u64,
        from: i64,
        immediate: bool,
    ) {
        let watch = Watch {
            target: WatchTarget::Predecessor { immediate },
            attempt,
            key: Arc::from(key),
            from,
            starts_late: true,
        };
        self.start(id, watch);
    }

    fn start(&self, id: u64, watch: Watch) {
        if watch.target.is_immediate() {
            let _ = self.commands.send(Command::Start(id, watch));
        } else if self.deferred.defer(Instant::now(), id, watch) {
            let _ = self.commands.send(Command::DeferredAdded);
        }
    }

    /// Stops watches.
    pub(crate) fn stop(&self, ids: Vec<u64>) {
        for id in ids.into_iter().filter(|id| *id != 0) {
            // Waking the task for each lock was one in fourteen of a client's context switches.
            if !self.deferred.cancel(id) {
                let _ = self.commands.send(Command::Stop(id));
            }
        }
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
    deferred: Arc<DeferredWatches>,
    ids: Arc<AtomicU64>,
    stream_id: Arc<AtomicU64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_released_early_wake_the_task_at_most_once() {
        let (watcher, mut input) = Watcher::new();
        for _ in 0..100 {
            let id = watcher.next_id();
            let watch = Watch {
                target: WatchTarget::Own,
                attempt: AttemptId::random().unwrap(),
                key: Arc::from("k"),
                from: 1,
                starts_late: false,
            };
            watcher.start(id, watch);
            watcher.stop(vec![id]);
        }
        assert!(matches!(
            input.commands.try_recv(),
            Ok(Command::DeferredAdded)
        ));
        assert!(input.commands.try_recv().is_err());
    }
}
