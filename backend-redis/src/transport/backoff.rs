//! How long to wait before the next try to connect.

use std::time::Duration;

/// The longest wait after the first failure.
const RECONNECT_BACKOFF_INITIAL: Duration = Duration::from_millis(10);
/// The longest wait ever.
const RECONNECT_BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A connection that lasted for so long was a good one: the next failure is a first one again. A
/// server that takes connections and drops them is not asked at full speed.
const STABLE_CONNECTION_AGE: Duration = Duration::from_secs(5);

/// Doubling waits with full jitter: many clients that lost one server come back one by one.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait.
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

    /// A connection ended that had lasted for so long.
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
    fn waits_grow_to_a_bound_and_start_again_after_a_good_connection() {
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
    fn waits_differ() {
        let delay = || Backoff { failures: 20 }.next_delay();
        let first = delay();
        assert!((0..20).any(|_| delay() != first));
    }
}
