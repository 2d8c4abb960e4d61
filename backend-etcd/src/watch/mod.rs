//! Watching keys: one stream for all that this client waits for or holds.
//!
//! A watch tells of a key's deletion, and is over then. The stream is opened anew when it ends, when its
//! server stops answering, and when the connection moves; each watch begins again where nothing of it
//! can have been missed. Where that part of the history is compacted, the store is asked instead.
//!
//! A server catches up with watches that begin in the past every 100 ms only. So the watch of a
//! predecessor begins now, and where the store has moved on since the predecessor was seen, it is asked
//! once more whether that one is still there. That of one of ours is put off a little: its release tells
//! sooner.

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

/// Asks for watches. Never blocks.
pub(crate) struct Watcher {
    commands: mpsc::UnboundedSender<Command>,
    deferred: Arc<DeferredWatches>,
    ids: Arc<AtomicU64>,
    /// Rises with every stream.
    stream_id: Arc<AtomicU64>,
}

enum Command {
    Start(u64, Watch),
    Stop(u64),
    /// Something was put off.
    DeferredAdded,
    RequestProgress(oneshot::Sender<()>),
}

struct Watch {
    target: WatchTarget,
    attempt: AttemptId,
    key: Arc<str>,
    /// The first revision of which it has to tell.
    from: i64,
    /// It was begun later than there.
    starts_late: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WatchTarget {
    /// An attempt's own key.
    Own,
    /// The key that an attempt waits for. Not `immediate`: it is one of ours, whose removal tells sooner.
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

/// Whether the stream lives.
#[derive(Debug)]
pub(crate) struct ProgressRequest {
    reply: Option<oneshot::Receiver<()>>,
    is_alive: bool,
    timeout: Duration,
}

impl ProgressRequest {
    /// Whether it has answered since this was asked.
    pub(crate) async fn is_alive(&mut self) -> bool {
        if let Some(reply) = self.reply.take() {
            let reply = time::timeout(self.timeout, reply).await;
            self.is_alive = matches!(reply, Ok(Ok(())));
        }
        self.is_alive
    }
}

impl Watcher {
    /// A watcher, and what it asks of its task.
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

    /// A number for a watch, used once.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// The stream that is open, by its number.
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

    /// Watches the key that an attempt waits for: at once if `immediate`, else a little later, where the
    /// removal of whoever has that key tells of its end.
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

    /// Ends watches.
    pub(crate) fn stop(&self, ids: Vec<u64>) {
        for id in ids.into_iter().filter(|id| *id != 0) {
            // To wake the task for each lock was one in fourteen of a client's context switches.
            if !self.deferred.cancel(id) {
                let _ = self.commands.send(Command::Stop(id));
            }
        }
    }

    /// Asks the stream whether it lives.
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

/// What is asked of the task.
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
    fn a_lock_that_is_given_back_soon_wakes_the_task_once_at_most() {
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
