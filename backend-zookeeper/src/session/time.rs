//! Time limits on the client's clock, and the durations that follow from a TTL.

use std::{future::Future, pin::pin, task::Poll, time::Duration};

use tenure_core::clock::{Clock, Instant};

/// Runs a future until a moment. `None` if the moment came first. A future that is ready at once costs
/// no timer.
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

/// The shortest TTL. A proof is up to three heartbeats old (1.8 ticks). Each of two connections
/// that are lost one after the other costs two heartbeats of a new chain (1.2 ticks) after a
/// [`silence_limit`]. The sum is 1.8 + 2 * 1.2 ticks and two silence limits. A TTL of seven ticks
/// or more covers it; with ticks under 250 ms, so does one of 4.2 ticks and 600 ms. The rest of the
/// TTL is left for the network and the servers.
pub(crate) fn shortest(tick: Duration) -> Duration {
    (tick * 8).max(tick * 5 + Duration::from_millis(750))
}

/// The time from one heartbeat to the next, its answer included.
pub(crate) fn heartbeat_interval(ttl: Duration, tick: Duration) -> Duration {
    (ttl / 20).max(tick * 6 / 10)
}

/// How long a heartbeat may stay unanswered before the client leaves the server for another one. On a
/// busy machine a server may need 300 ms.
pub(crate) fn silence_limit(ttl: Duration) -> Duration {
    (ttl / 5).clamp(Duration::from_millis(300), Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use tenure_core::lease::DriftBounds;

    use super::*;

    #[test]
    fn l5_the_shortest_ttl_outlasts_two_silent_servers_in_a_row() {
        for millis in [10, 50, 100, 200, 500, 1000, 2000, 10_000] {
            let tick = Duration::from_millis(millis);
            for ttl in [1, 2, 3].map(|times| shortest(tick) * times) {
                let beat = heartbeat_interval(ttl, tick).max(tick * 6 / 10);
                let new_chain = 2 * (tick * 6 / 10);
                let lost = 3 * beat + 2 * (silence_limit(ttl) + new_chain);
                let left = DriftBounds::DEFAULT.validity(ttl).checked_sub(lost);
                // Some time is left for the answers.
                assert!(left > Some(tick / 4), "{tick:?} {ttl:?}: {left:?}");
            }
        }
    }
}
