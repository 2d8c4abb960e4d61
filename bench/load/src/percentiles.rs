//! Percentiles of durations.

use std::time::Duration;

use serde::Serialize;

/// Durations in ascending order.
#[derive(Clone, Debug, Default)]
pub struct Percentiles(Vec<Duration>);

impl Percentiles {
    /// Takes durations in any order.
    pub fn new(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        Self(durations)
    }

    /// Returns the durations of both.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        Self::new(self.0)
    }

    /// Returns the number of durations.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no durations.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a percentile by the nearest rank, given in thousandths: 990 is the 99th percentile.
    /// Returns zero if there are no durations.
    pub fn at(&self, permille: usize) -> Duration {
        let rank = (self.0.len() * permille.min(1000)).div_ceil(1000);
        let found = self.0.get(rank.saturating_sub(1));
        found.copied().unwrap_or_default()
    }

    /// Returns the median.
    pub fn median(&self) -> Duration {
        self.at(500)
    }

    /// Returns the longest duration.
    pub fn longest(&self) -> Duration {
        self.at(1000)
    }

    /// Returns the usual percentiles in microseconds.
    pub fn micros(&self) -> Micros {
        let micros = |permille| self.at(permille).as_secs_f64() * 1e6;
        Micros {
            count: self.len(),
            median: micros(500),
            p90: micros(900),
            p99: micros(990),
            longest: micros(1000),
        }
    }
}

/// The usual percentiles in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct Micros {
    /// The number of durations.
    pub count: usize,
    /// The median.
    pub median: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The longest duration.
    pub longest: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_use_the_nearest_rank() {
        let many = Percentiles::new((1..=200).rev().map(Duration::from_micros).collect());
        assert_eq!(many.median(), Duration::from_micros(100));
        assert_eq!(many.at(990), Duration::from_micros(198));
        assert_eq!(many.longest(), Duration::from_micros(200));
        assert_eq!(many.at(0), Duration::from_micros(1));
        let one = Percentiles::new(vec![Duration::from_micros(7)]);
        assert_eq!((one.median(), one.at(990)), (one.longest(), one.longest()));
        assert_eq!(Percentiles::default().longest(), Duration::ZERO);
        assert_eq!(many.merge(one).len(), 201);
    }
}
