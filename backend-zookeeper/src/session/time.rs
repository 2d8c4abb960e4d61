//! Time limits on the client's clock, and how long things take at most for a TTL.

use std::{future::Future, pin::pin, task::Poll, time::Duration};

use tenure_core::clock::{Clock, Instant};

/// Runs a future until a moment. `None` if the moment came first. One that is ready at once costs no
/// timer.
pub(crate) async fn until<T>(
    clock: &dyn Clock,
    limit: Instant,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    let first = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    if let Poll::Ready(output) = first {
        return Some(output);
    }
    tokio::select! {
        biased;
        output = future => Some(output),
        () = clock.sleep_until(limit) => None,
    }
}

/// The shortest TTL, in ticks. A proof is up to three heartbeats old (1.8 ticks); of two connections
/// that are lost one after the other, each can take with it two heartbeats of a new row (1.2 ticks)
/// after a silence of a fifth of the TTL: 1.8 + 2 * 1.2 + 2 / 5 of the TTL is less than the TTL from
/// seven ticks on. The eighth is for what the network and the servers take.
pub(crate) const SHORTEST: u32 = 8;

/// The time between two heartbeats, the answer's included.
pub(crate) fn pace(ttl: Duration, tick: Duration) -> Duration {
    (ttl / 20).max(tick * 6 / 10)
}

/// A server that is silent for so long is left for another one.
pub(crate) fn silence(ttl: Duration) -> Duration {
    (ttl / 5).min(Duration::from_secs(5))
}
