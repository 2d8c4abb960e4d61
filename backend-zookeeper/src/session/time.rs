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

/// The shortest TTL. A proof is up to three heartbeats old (1.8 ticks); of two connections that are
/// lost one after the other, each can take with it two heartbeats of a new row (1.2 ticks) after a
/// [`silence`]: 1.8 + 2 * 1.2 ticks + 2 silences is less than the TTL from seven ticks on, or with
/// ticks under 250 ms from 4.2 of them and 600 ms. What is more is for the network and the servers.
pub(crate) fn shortest(tick: Duration) -> Duration {
    (tick * 8).max(tick * 5 + Duration::from_millis(750))
}

/// The time between two heartbeats, the answer's included.
pub(crate) fn pace(ttl: Duration, tick: Duration) -> Duration {
    (ttl / 20).max(tick * 6 / 10)
}

/// A server that is silent for so long is left for another one. Servers may be silent for 300 ms
/// because their machine is busy.
pub(crate) fn silence(ttl: Duration) -> Duration {
    (ttl / 5).clamp(Duration::from_millis(300), Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use tenure_core::lease::Terms;

    use super::*;

    #[test]
    fn l5_the_shortest_ttl_outlasts_two_silent_servers_in_a_row() {
        for millis in [10, 50, 100, 200, 500, 1000, 2000, 10_000] {
            let tick = Duration::from_millis(millis);
            for ttl in [1, 2, 3].map(|times| shortest(tick) * times) {
                let beat = pace(ttl, tick).max(tick * 6 / 10);
                let new_row = 2 * (tick * 6 / 10);
                let lost = 3 * beat + 2 * (silence(ttl) + new_row);
                let left = Terms::DEFAULT.validity(ttl).checked_sub(lost);
                // Something is left for the answers to take.
                assert!(left > Some(tick / 4), "{tick:?} {ttl:?}: {left:?}");
            }
        }
    }
}
