//! The ratios of `tenure` to other implementations that must be reached.

use std::fmt::Write;

use crate::{
    etcd::LOCK_SERVICE,
    measure::{CONTENDED, INDEPENDENT, UNCONTENDED},
    peer::{CURATOR, KAZOO, PYTHON_REDIS_LOCK, REDLOCK},
    results::{Metric, Point, Results, number, ratio},
    zookeeper::RECIPE,
};

const BASELINE: &str = "baseline";
pub(crate) const RSLOCK: &str = "rslock";

/// The bound of a ratio.
#[derive(Clone, Copy, Debug)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// The ratio is only shown.
    None,
}
use Bound::{AtLeast, AtMost};

/// The ratio of `tenure` to another implementation, with `size` waiters or tasks.
struct Limit {
    store: &'static str,
    metric: Metric,
    size: usize,
    other: &'static str,
    bound: Bound,
}

const fn limit(
    store: &'static str,
    metric: Metric,
    size: usize,
    other: &'static str,
    bound: Bound,
) -> Limit {
    Limit {
        store,
        metric,
        size,
        other,
        bound,
    }
}

const LIMITS: &[Limit] = &[
    limit("redis", UNCONTENDED, 1, BASELINE, AtMost(1.15)),
    limit("redis", CONTENDED, 16, RSLOCK, AtLeast(4.0)),
    limit("redis", CONTENDED, 64, RSLOCK, Bound::None),
    limit("redis", CONTENDED, 16, PYTHON_REDIS_LOCK, Bound::None),
    limit("redis", CONTENDED, 64, PYTHON_REDIS_LOCK, Bound::None),
    limit("redis", CONTENDED, 16, REDLOCK, Bound::None),
    limit("redis", CONTENDED, 64, REDLOCK, Bound::None),
    limit("redis", INDEPENDENT, 64, RSLOCK, AtLeast(0.85)),
    limit("etcd", UNCONTENDED, 1, BASELINE, AtMost(1.25)),
    limit("etcd", CONTENDED, 16, LOCK_SERVICE, AtLeast(1.5)),
    limit("etcd", CONTENDED, 64, LOCK_SERVICE, AtLeast(1.0)),
    limit("etcd", CONTENDED, 256, LOCK_SERVICE, AtLeast(1.0)),
    limit("etcd", INDEPENDENT, 64, LOCK_SERVICE, AtLeast(0.85)),
    limit("zookeeper", UNCONTENDED, 1, RECIPE, AtMost(1.1)),
    limit("zookeeper", UNCONTENDED, 1, CURATOR, Bound::None),
    limit("zookeeper", UNCONTENDED, 1, KAZOO, Bound::None),
    limit("zookeeper", CONTENDED, 16, RECIPE, AtLeast(1.0)),
    limit("zookeeper", CONTENDED, 16, CURATOR, AtLeast(1.0)),
    limit("zookeeper", CONTENDED, 16, KAZOO, AtLeast(2.0)),
    limit("zookeeper", CONTENDED, 64, RECIPE, AtLeast(1.0)),
    limit("zookeeper", CONTENDED, 64, CURATOR, AtLeast(1.0)),
    limit("zookeeper", CONTENDED, 64, KAZOO, AtLeast(2.0)),
    limit("zookeeper", INDEPENDENT, 64, RECIPE, AtLeast(0.85)),
];

/// A limit of which both sides were measured.
struct Checked {
    limit: &'static Limit,
    ratio: f64,
    /// The fairness of `tenure` and of the other implementation, with contention.
    fairness: Option<(f64, f64)>,
}

impl Checked {
    fn reached(&self) -> Option<bool> {
        match self.limit.bound {
            AtMost(most) => Some(self.ratio <= most),
            AtLeast(least) => Some(self.ratio >= least),
            Bound::None => None,
        }
    }

    fn bound(&self) -> String {
        match self.limit.bound {
            AtMost(most) => format!("at most {most:.2}"),
            AtLeast(least) => format!("at least {least:.2}"),
            Bound::None => String::new(),
        }
    }

    fn title(&self) -> String {
        let Limit { metric, size, .. } = self.limit;
        match metric.per {
            "" => format!("{} ({})", metric.title, metric.unit),
            per => format!("{}, {size} {per} ({})", metric.title, metric.unit),
        }
    }
}

fn check(results: &Results, store: &str) -> Vec<Checked> {
    let of_store = LIMITS.iter().filter(|limit| limit.store == store);
    let checked = of_store.filter_map(|limit| {
        let place = (store, limit.metric, limit.size);
        let ours = results.find(place, "tenure")?;
        let other = results.find(place, limit.other)?;
        Some(Checked {
            limit,
            ratio: ratio(ours, other),
            fairness: ours.fairness().zip(Point::fairness(other)),
        })
    });
    checked.collect()
}

/// Returns the table of a store's ratios; `None` if none of them was measured.
pub(crate) fn table(results: &Results, store: &str) -> Option<String> {
    let checked = check(results, store);
    if checked.is_empty() {
        return None;
    }
    let mut text = String::from(
        "| tenure over another implementation | | ratio | must be | reached | longest wait over median \
         wait: tenure, other |\n|---|---|---:|---|---|---|\n",
    );
    for row in checked {
        let reached = match row.reached() {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        let fairness = row.fairness.map_or_else(String::new, |(ours, other)| {
            format!("{}, {}", number(ours), number(other))
        });
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} | {} | {reached} | {fairness} |",
            row.title(),
            row.limit.other,
            row.ratio,
            row.bound(),
        );
    }
    Some(text)
}

/// Returns a sentence for each ratio that was measured and not reached.
pub(crate) fn missed(results: &Results) -> Vec<String> {
    let stores = results.stores.iter();
    let checked = stores.flat_map(|(store, _)| check(results, store));
    checked
        .filter(|row| row.reached() == Some(false))
        .map(|row| {
            let (store, other) = (row.limit.store, row.limit.other);
            let (title, ratio, bound) = (row.title(), row.ratio, row.bound());
            format!("{store}: {title}: {ratio:.2} times {other}, must be {bound}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_is_shown_with_its_bound_and_its_fairness() {
        let mut results = Results::new(Vec::new());
        assert_eq!(table(&results, "zookeeper"), None);
        let zookeeper = ("zookeeper".to_owned(), String::new());
        results.stores.push(zookeeper);
        for (implementation, rate) in [("tenure", 1500.0), (RECIPE, 1000.0), (KAZOO, 1000.0)] {
            let value = (rate, rate / 1000.0);
            results.add_contended("zookeeper", CONTENDED, implementation, 16, value);
        }
        let table = table(&results, "zookeeper").unwrap();
        let row = |other: &str| table.lines().find(|line| line.contains(other)).unwrap();
        let recipe = "| 1.50 | at least 1.00 | yes | 1.50, 1.00 |";
        assert!(row(RECIPE).ends_with(recipe), "{table}");
        let kazoo = "| 1.50 | at least 2.00 | no | 1.50, 1.00 |";
        assert!(row(KAZOO).ends_with(kazoo), "{table}");
        assert!(!table.contains(CURATOR), "{table}");
        let missed = missed(&results);
        assert_eq!(missed.len(), 1, "{missed:?}");
        assert!(missed[0].contains(KAZOO), "{missed:?}");
    }
}
