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

use self::deferred::Later;
pub(crate) use self::task::Watching;
use crate::shared::Core;

/// Asks for watches. Never blocks.
pub(crate) struct Watcher {
    commands: mpsc::UnboundedSender<Command>,
    later: Arc<Later>,
    numbers: Arc<AtomicU64>,
    /// Rises with every stream.
    stream: Arc<AtomicU64>,
}

enum Command {
    Begin(u64, Watch),
    End(u64),
    /// Something was put off.
    Later,
    Pulse(oneshot::Sender<()>),
}

struct Watch {
    what: What,
    attempt: AttemptId,
    key: Arc<str>,
    /// The first revision of which it has to tell.
    from: i64,
    /// It was begun later than there.
    gap: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// An attempt's own key.
    Own,
    /// The key that an attempt waits for. Not `soon`: it is one of ours, whose removal tells sooner.
    Ahead { soon: bool },
}

impl What {
    fn is_ahead(self) -> bool {
        matches!(self, Self::Ahead { .. })
    }

    fn is_soon(self) -> bool {
        matches!(self, Self::Ahead { soon: true })
    }
}

/// Whether the stream lives.
#[derive(Debug)]
pub(crate) struct Pulse {
    answer: Option<oneshot::Receiver<()>>,
    alive: bool,
    patience: Duration,
}

impl Pulse {
    /// Whether it has answered since this was asked.
    pub(crate) async fn alive(&mut self) -> bool {
        if let Some(answer) = self.answer.take() {
            let answer = time::timeout(self.patience, answer).await;
            self.alive = matches!(answer, Ok(Ok(())));
        }
        self.alive
    }
}

impl Watcher {
    /// A watcher, and what it asks of its task.
    pub(crate) fn new() -> (Self, Inbox) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let watcher = Self {
            commands,
            later: Arc::default(),
            numbers: Arc::new(AtomicU64::new(1)),
            stream: Arc::default(),
        };
        let inbox = Inbox {
            commands: inbox,
            later: Arc::clone(&watcher.later),
            numbers: Arc::clone(&watcher.numbers),
            stream: Arc::clone(&watcher.stream),
        };
        (watcher, inbox)
    }

    /// A number for a watch, used once.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The stream that is open, by its number.
    pub(crate) fn stream(&self) -> u64 {
        self.stream.load(Ordering::SeqCst)
    }

    /// Watches an attempt's own key.
    pub(crate) fn watch_own(&self, core: &Core, attempt: AttemptId) {
        let number = self.number();
        let watch = core.attempts.update(attempt, |entry| {
            entry.own_watch = number;
            Watch {
                what: What::Own,
                attempt,
                key: Arc::clone(&entry.key),
                from: entry.revision.max(entry.verified_revision) + 1,
                gap: false,
            }
        });
        if let Some(watch) = watch {
            self.begin(number, watch);
        }
    }

    /// Watches the key that an attempt waits for: at once if `soon`, else a little later, where the
    /// removal of whoever has that key tells of its end.
    pub(crate) fn watch_predecessor(
        &self,
        attempt: AttemptId,
        key: String,
        number: u64,
        from: i64,
        soon: bool,
    ) {
        let watch = Watch {
            what: What::Ahead { soon },
            attempt,
            key: Arc::from(key),
            from,
            gap: true,
        };
        self.begin(number, watch);
    }

    fn begin(&self, number: u64, watch: Watch) {
        if watch.what.is_soon() {
            let _ = self.commands.send(Command::Begin(number, watch));
        } else if self.later.put_off(Instant::now(), number, watch) {
            let _ = self.commands.send(Command::Later);
        }
    }

    /// Ends watches.
    pub(crate) fn end(&self, numbers: Vec<u64>) {
        for number in numbers.into_iter().filter(|number| *number != 0) {
            // To wake the task for each lock was one in fourteen of a client's context switches.
            if !self.later.take_back(number) {
                let _ = self.commands.send(Command::End(number));
            }
        }
    }

    /// Asks the stream whether it lives.
    pub(crate) fn pulse(&self, patience: Duration) -> Pulse {
        let (tell, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Pulse(tell));
        Pulse {
            answer: Some(answer),
            alive: false,
            patience,
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("stream", &self.stream())
            .finish_non_exhaustive()
    }
}

/// What is asked of the task.
pub(crate) struct Inbox {
    commands: mpsc::UnboundedReceiver<Command>,
    later: Arc<Later>,
    numbers: Arc<AtomicU64>,
    stream: Arc<AtomicU64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_given_back_soon_wakes_the_task_once_at_most() {
        let (watcher, mut inbox) = Watcher::new();
        for _ in 0..100 {
            let number = watcher.number();
            let watch = Watch {
                what: What::Own,
                attempt: AttemptId::random().unwrap(),
                key: Arc::from("k"),
                from: 1,
                gap: false,
            };
            watcher.begin(number, watch);
            watcher.end(vec![number]);
        }
        assert!(matches!(inbox.commands.try_recv(), Ok(Command::Later)));
        assert!(inbox.commands.try_recv().is_err());
    }
}
