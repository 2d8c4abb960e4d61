//! The pause between attempts to connect.

use std::time::Duration;

use crate::clock::Clock;

/// Exponential backoff with full jitter, so that the clients of a lost server do not all reconnect
/// at once.
///
/// Each pause is random, between zero and an upper bound. The bound is the initial one after the
/// first failure, doubles with each further failure, and does not exceed the maximum.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Creates a backoff from the upper bound of the first pause and of every pause.
    #[must_use]
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            failures: 0,
        }
    }

    /// Counts a failure and pauses. The pause is measured on `clock`, with a resolution of one
    /// microsecond.
    ///
    /// # Cancel safety
    ///
    /// The failure counts from the first poll of the future, even if the future is then dropped.
    pub async fn pause(&mut self, clock: &dyn Clock) {
        let delay = self.next_delay();
        clock.sleep_until(clock.now() + delay).await;
    }

    /// Forgets the failures. Call it after a success.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Forgets the failures if a connection has lasted at least as long as the longest pause.
    ///
    /// Use it instead of [`reset`](Self::reset) when connecting alone shows too little: a server
    /// that accepts connections and drops them would be retried at full speed.
    pub fn record_uptime(&mut self, uptime: Duration) {
        if uptime >= self.max {
            self.reset();
        }
    }

    fn next_delay(&mut self) -> Duration {
        let bound = self.bound();
        self.failures = self.failures.saturating_add(1);
        let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(fastrand::u64(0..=micros))
    }

    fn bound(&self) -> Duration {
        self.initial
            .saturating_mul(1 << self.failures.min(20))
            .min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const INITIAL: Duration = Duration::from_millis(10);
    const MAX: Duration = Duration::from_secs(2);

    #[test]
    fn bounds_double_up_to_the_maximum_until_a_connection_lasts() {
        let mut backoff = Backoff::new(INITIAL, MAX);
        let bounds: Vec<_> = (0..12)
            .map(|_| {
                let bound = backoff.bound();
                assert!(backoff.next_delay() <= bound);
                bound
            })
            .collect();
        assert_eq!(bounds[..3], [INITIAL, INITIAL * 2, INITIAL * 4]);
        assert!(bounds.is_sorted());
        assert_eq!(bounds[11], MAX);
        backoff.record_uptime(MAX - Duration::from_millis(1));
        assert_eq!(backoff.bound(), MAX);
        backoff.record_uptime(MAX);
        assert_eq!(backoff.bound(), INITIAL);
    }

    #[test]
    fn delays_are_random() {
        let mut backoff = Backoff::new(MAX, MAX);
        let first = backoff.next_delay();
        assert!((0..20).any(|_| backoff.next_delay() != first));
    }

    #[tokio::test]
    async fn pause_passes_on_the_given_clock() {
        let clock = ManualClock::new();
        // A bound that no run of this test reaches on another clock.
        let mut backoff = Backoff::new(Duration::from_secs(1 << 40), Duration::MAX);
        let mut pausing = tokio::spawn({
            let clock = clock.clone();
            async move { backoff.pause(&clock).await }
        });
        tokio::task::yield_now().await;
        assert!(!pausing.is_finished());
        clock.advance(Duration::from_secs(1 << 40));
        (&mut pausing).await.unwrap();
    }
}
