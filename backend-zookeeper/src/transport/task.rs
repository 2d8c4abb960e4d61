//! The task of a `zookeeper_client::Client`, owned by this driver.
//!
//! The crate spawns one task for each client with `asyncs::spawn`, which hands it to the spawner that
//! the thread has entered. That is no documented promise of the crate, so its version is pinned, and
//! [`ClientTask::capture`] fails if no task was captured.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use asyncs::task::{Spawn, Task, enter};

/// The task that serves a client's session.
pub(super) struct ClientTask(Pin<Box<dyn Future<Output = ()> + Send>>);

/// A spawner that keeps the task instead of running it.
#[derive(Default)]
struct Capture(Mutex<Option<Task>>);

impl Capture {
    fn task(&self) -> std::sync::MutexGuard<'_, Option<Task>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spawn for Capture {
    fn spawn(&self, task: Task) {
        *self.task() = Some(task);
    }
}

impl ClientTask {
    /// Runs a future that connects a client, and keeps the task that it spawns. `None` if it spawned
    /// none.
    pub(super) async fn capture<T>(connecting: impl Future<Output = T>) -> (T, Option<Self>) {
        let capture = Capture::default();
        let mut connecting = pin!(connecting);
        let output = poll_fn(|context| {
            let _scope = enter(&capture);
            connecting.as_mut().poll(context)
        })
        .await;
        let task = capture.task().take();
        (output, task.map(|task| Self(Box::into_pin(task.future))))
    }

    /// Polls the task; ready when it has ended. The session's state changes only in this call, and the
    /// task reconnects only in later ones, so a caller that checks the state after each call can stop
    /// before that.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(context)
    }
}
