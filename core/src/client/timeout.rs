//! Time limits on the client's clock.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use crate::clock::{Clock, Instant};

/// Runs a future until `limit`. Returns `None` if `limit` is reached first.
///
/// A future that is ready at once needs no timer.
pub(crate) async fn timeout_at<T>(
    clock: &dyn Clock,
    limit: Instant,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    let first = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    if let Poll::Ready(output) = first {
        return Some(output);
    }
    if limit == Instant::FAR_FUTURE {
        return Some(future.await);
    }
    tokio::select! {
        biased;
        output = future => Some(output),
        () = clock.sleep_until(limit) => None,
    }
}
