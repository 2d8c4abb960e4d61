//! The delay before the next connection attempt.

use std::time::Duration;

/// The longest delay after the first failure.
const RECONNECT_BACKOFF_INITIAL: Duration = Duration::from_millis(10);
/// The longest delay.
const RECONNECT_BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A connection that lasted this long resets the backoff. A server that accepts connections and
/// drops them is therefore not retried at full speed.
const STABLE_CONNECTION_AGE: Duration = Duration::from_secs(5);

/// Exponential backoff with full jitter, so that the clients of a lost server do not all reconnect
/// at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay before the next attempt.
    pub(super) fn next_delay(&mut self) -> Duration {
        let max_delay = self.max_delay();
        self.failures = self.failures.saturating_add(1);
        let micros = u64::try_from(max_delay.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(fastrand::u64(0..=micros))
    }

    fn max_delay(&self) -> Duration {
        RECONNECT_BACKOFF_INITIAL
            .saturating_mul(1 << self.failures.min(20))
            .min(RECONNECT_BACKOFF_MAX)
    }

    /// Records that a connection ended after this time.
    pub(super) fn record_uptime(&mut self, span: Duration) {
        if span >= STABLE_CONNECTION_AGE {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_and_reset_after_a_stable_connection() {
        let mut backoff = Backoff::default();
        let max_delays: Vec<_> = (0..12)
            .map(|_| {
                let max_delay = backoff.max_delay();
                assert!(backoff.next_delay() <= max_delay);
                max_delay
            })
            .collect();
        assert_eq!(max_delays[0], RECONNECT_BACKOFF_INITIAL);
        assert!(max_delays.is_sorted());
        assert_eq!(max_delays[11], RECONNECT_BACKOFF_MAX);
        backoff.record_uptime(Duration::from_millis(1));
        assert_eq!(backoff.max_delay(), RECONNECT_BACKOFF_MAX);
        backoff.record_uptime(STABLE_CONNECTION_AGE);
        assert_eq!(backoff.max_delay(), RECONNECT_BACKOFF_INITIAL);
    }

    #[test]
    fn delays_are_random() {
        let delay = || Backoff { failures: 20 }.next_delay();
        let first = delay();
        assert!((0..20).any(|_| delay() != first));
    }
}
