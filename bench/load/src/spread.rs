//! How durations are spread: the median, the 99th of a hundred, the longest.

use std::time::Duration;

use serde::Serialize;

/// Durations in rising order.
#[derive(Clone, Debug, Default)]
pub struct Spread(Vec<Duration>);

impl Spread {
    /// Of these, in any order.
    pub fn new(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        Self(durations)
    }

    /// These and those of another one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        Self::new(self.0)
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The least one of which at least `permille` thousandths are not longer; zero if there are none.
    pub fn at(&self, permille: usize) -> Duration {
        let rank = (self.0.len() * permille.min(1000)).div_ceil(1000);
        let found = self.0.get(rank.saturating_sub(1));
        found.copied().unwrap_or_default()
    }

    /// The one in the middle.
    pub fn median(&self) -> Duration {
        self.at(500)
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.at(1000)
    }

    /// What is usually shown of it, in microseconds.
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

/// A spread in a few numbers, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct Micros {
    /// How many durations it is made of.
    pub count: usize,
    /// Half of them are not longer.
    pub median: f64,
    /// Nine of ten are not longer.
    pub p90: f64,
    /// 99 of a hundred are not longer.
    pub p99: f64,
    /// The longest.
    pub longest: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_field() {
        let spread = Spread::new((1..=200).rev().map(Duration::from_micros).collect());
        assert_eq!(spread.median(), Duration::from_micros(100));
        assert_eq!(spread.at(990), Duration::from_micros(198));
        assert_eq!(spread.longest(), Duration::from_micros(200));
        assert_eq!(spread.at(0), Duration::from_micros(1));
        let one = Spread::new(vec![Duration::from_micros(7)]);
        assert_eq!((one.median(), one.at(990)), (one.longest(), one.longest()));
        assert_eq!(Spread::default().longest(), Duration::ZERO);
        assert_eq!(spread.and(one).len(), 201);
    }
}
