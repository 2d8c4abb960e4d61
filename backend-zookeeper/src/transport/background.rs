//! Operations that continue in the background when their caller stops waiting, for as long as their
//! connection lasts. So the result of an operation is not lost because its caller gave up.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tenure_core::clock::{Clock, Instant};
use tokio::sync::oneshot;

use super::Connection;
use crate::session::time::until;

/// An operation under way. Dropping it lets the operation go on.
pub(crate) struct Running<T> {
    operation: Option<BoxFuture<'static, ()>>,
    answer: oneshot::Receiver<T>,
    connection: Arc<Connection>,
}

impl Connection {
    /// Starts an operation that sends its answer when it is done. It runs while its caller waits for
    /// it, and then in the background.
    pub(crate) fn start<T, F>(
        self: &Arc<Self>,
        operation: impl FnOnce(oneshot::Sender<T>) -> F,
    ) -> Running<T>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        Running {
            operation: Some(Box::pin(operation(sender))),
            answer,
            connection: Arc::clone(self),
        }
    }
}

impl<T> Running<T> {
    /// Waits for the answer, but not longer than until `limit`. `Some(None)`: there is no answer.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost; it may be called again.
    pub(crate) async fn until(&mut self, clock: &dyn Clock, limit: Instant) -> Option<Option<T>> {
        if let Some(operation) = &mut self.operation {
            until(clock, limit, operation.as_mut()).await?;
            self.operation = None;
        }
        Some(self.answer.try_recv().ok())
    }

    /// Lets the operation go on in the background. Returns the answer if it has come. Otherwise the
    /// operation sees that its caller no longer takes the answer.
    pub(crate) fn stop_waiting(mut self) -> Option<T> {
        self.answer.close();
        self.answer.try_recv().ok()
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        if let Some(operation) = self.operation.take() {
            self.connection.spawn(operation);
        }
    }
}
