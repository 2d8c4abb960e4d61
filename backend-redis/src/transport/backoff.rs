//! How long to wait before the next try to connect.

use std::time::Duration;

/// The longest wait after the first failure.
const FIRST: Duration = Duration::from_millis(10);
/// The longest wait ever.
const LONGEST: Duration = Duration::from_secs(2);
/// A connection that lasted for so long was a good one: the next failure is a first one again. A
/// server that takes connections and drops them is not asked at full speed.
const GOOD: Duration = Duration::from_secs(5);

/// Doubling waits with full jitter: many clients that lost one server come back one by one.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait.
    pub(super) fn next(&mut self) -> Duration {
        let longest = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(fastrand::u64(0..=micros))
    }

    fn ceiling(&self) -> Duration {
        FIRST
            .saturating_mul(1 << self.failures.min(20))
            .min(LONGEST)
    }

    /// A connection ended that had lasted for so long.
    pub(super) fn lasted(&mut self, span: Duration) {
        if span >= GOOD {
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
        let ceilings: Vec<_> = (0..12)
            .map(|_| {
                let ceiling = backoff.ceiling();
                assert!(backoff.next() <= ceiling);
                ceiling
            })
            .collect();
        assert_eq!(ceilings[0], FIRST);
        assert!(ceilings.is_sorted());
        assert_eq!(ceilings[11], LONGEST);
        backoff.lasted(Duration::from_millis(1));
        assert_eq!(backoff.ceiling(), LONGEST);
        backoff.lasted(GOOD);
        assert_eq!(backoff.ceiling(), FIRST);
    }

    #[test]
    fn waits_differ() {
        let waits = || Backoff { failures: 20 }.next();
        let first = waits();
        assert!((0..20).any(|_| waits() != first));
    }
}
