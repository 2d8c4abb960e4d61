//! The results: numbers with their metric, store and implementation, as tables and as JSON.

use std::fmt::Write;

use serde::Serialize;

/// A measured quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Metric {
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    /// The things that the size counts; empty if there is only one size.
    pub(crate) per: &'static str,
}

pub(crate) const fn metric(title: &'static str, unit: &'static str, per: &'static str) -> Metric {
    Metric { title, unit, per }
}

/// The values of one metric for one implementation and size.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Point {
    pub(crate) store: String,
    #[serde(flatten)]
    pub(crate) metric: Metric,
    pub(crate) implementation: String,
    pub(crate) size: usize,
    /// The value of each round.
    pub(crate) rounds: Vec<f64>,
    /// The longest wait over the median wait in each round; empty without contention.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) fairness: Vec<f64>,
}

impl Point {
    pub(crate) fn median(&self) -> f64 {
        median(self.rounds.clone())
    }

    /// The median with its fairness in brackets, if there was contention.
    fn cell(&self) -> String {
        let value = number(self.median());
        match self.fairness() {
            Some(fairness) => format!("{value} ({})", number(fairness)),
            None => value,
        }
    }

    pub(crate) fn fairness(&self) -> Option<f64> {
        (!self.fairness.is_empty()).then(|| median(self.fairness.clone()))
    }
}

/// The distribution of one implementation's durations: pairs of thousandths and microseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Curve {
    pub(crate) store: String,
    pub(crate) title: &'static str,
    pub(crate) implementation: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// All results of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    schema: &'static str,
    pub(crate) machine: Vec<(&'static str, String)>,
    /// The names and descriptions of the measured stores.
    pub(crate) stores: Vec<(String, String)>,
    /// Remarks about a store's results: versions, and missing implementations.
    pub(crate) notes: Vec<(String, String)>,
    pub(crate) points: Vec<Point>,
    pub(crate) curves: Vec<Curve>,
}

impl Results {
    pub(crate) const fn new(machine: Vec<(&'static str, String)>) -> Self {
        Self {
            schema: "tenure.benchmark/2",
            machine,
            stores: Vec::new(),
            notes: Vec::new(),
            points: Vec::new(),
            curves: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, store: &str, note: String) {
        self.notes.push((store.to_owned(), note));
    }

    /// Adds the value of one round.
    pub(crate) fn add(
        &mut self,
        store: &str,
        metric: Metric,
        implementation: &str,
        size: usize,
        value: f64,
    ) {
        let point = self.point(store, metric, implementation, size);
        point.rounds.push(value);
    }

    /// Adds the value of one round of a load with contention, and its fairness.
    pub(crate) fn add_contended(
        &mut self,
        store: &str,
        metric: Metric,
        implementation: &str,
        size: usize,
        (value, fairness): (f64, f64),
    ) {
        let point = self.point(store, metric, implementation, size);
        point.rounds.push(value);
        point.fairness.push(fairness);
    }

    fn point(
        &mut self,
        store: &str,
        metric: Metric,
        implementation: &str,
        size: usize,
    ) -> &mut Point {
        let found = self.points.iter().position(|point| {
            point.store == store
                && point.metric == metric
                && point.implementation == implementation
                && point.size == size
        });
        let index = found.unwrap_or_else(|| {
            self.points.push(Point {
                store: store.to_owned(),
                metric,
                implementation: implementation.to_owned(),
                size,
                rounds: Vec::new(),
                fairness: Vec::new(),
            });
            self.points.len() - 1
        });
        &mut self.points[index]
    }

    /// Returns the metrics of a store, in the order of their first values.
    pub(crate) fn metrics(&self, store: &str) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for point in self.points.iter().filter(|point| point.store == store) {
            if !metrics.contains(&point.metric) {
                metrics.push(point.metric);
            }
        }
        metrics
    }

    pub(crate) fn of(&self, store: &str, metric: Metric) -> impl Iterator<Item = &Point> {
        let store = store.to_owned();
        let of = move |point: &&Point| point.store == store && point.metric == metric;
        self.points.iter().filter(of)
    }

    pub(crate) fn find(
        &self,
        (store, metric, size): (&str, Metric, usize),
        implementation: &str,
    ) -> Option<&Point> {
        let mut points = self.of(store, metric);
        points.find(|point| point.implementation == implementation && point.size == size)
    }

    /// Returns one table of Markdown: a row for each implementation, and a column for each size. With
    /// a single size it also has the ratios to all other implementations.
    pub(crate) fn table(&self, store: &str, metric: Metric) -> String {
        let (mut sizes, mut names, mut contended) = (Vec::new(), Vec::new(), false);
        for point in self.of(store, metric) {
            if !sizes.contains(&point.size) {
                sizes.push(point.size);
            }
            if !names.contains(&&point.implementation) {
                names.push(&point.implementation);
            }
            contended |= !point.fairness.is_empty();
        }
        sizes.sort_unstable();
        let only_size = match sizes[..] {
            [size] => Some(size),
            _ => None,
        };
        let mut heads: Vec<String> = match only_size {
            Some(_) => vec![metric.unit.to_owned()],
            None => {
                let sizes = sizes.iter();
                sizes.map(|size| format!("{size} {}", metric.per)).collect()
            }
        };
        if only_size.is_some() {
            heads.extend(names.iter().map(|name| format!("x {name}")));
        }
        let brackets = if contended {
            "; in brackets: longest wait over median wait"
        } else {
            ""
        };
        let mut text = String::new();
        let _ = writeln!(
            text,
            "| {} ({}){brackets} | {} |",
            metric.title,
            metric.unit,
            heads.join(" | ")
        );
        let _ = writeln!(text, "|---|{}", "---:|".repeat(heads.len()));
        for name in &names {
            let point = |size: &usize| self.find((store, metric, *size), name);
            let mut cells: Vec<String> = sizes
                .iter()
                .map(|size| point(size).map_or_else(String::new, Point::cell))
                .collect();
            if let Some(size) = only_size {
                cells.extend(names.iter().map(|other| {
                    let pair = point(&size).zip(self.find((store, metric, size), other));
                    let pair = pair.filter(|_| other != name);
                    pair.map_or_else(String::new, |(one, other)| {
                        format!("{:.2}", ratio(one, other))
                    })
                }));
            }
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        text
    }
}

/// Returns the median of the rounds' ratios.
pub(crate) fn ratio(one: &Point, other: &Point) -> f64 {
    let pairs = one.rounds.iter().zip(&other.rounds);
    median(pairs.map(|(one, other)| one / other).collect())
}

/// Formats a number with its significant digits.
pub(crate) fn number(value: f64) -> String {
    let digits = if value < 10.0 {
        2
    } else {
        usize::from(value < 1000.0)
    };
    format!("{value:.digits$}")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: Metric = metric("pair", "us", "");
    const CONTENDED: Metric = metric("contended", "hand-overs/s", "waiters");

    #[test]
    fn rows_are_medians_and_ratios_are_medians_of_rounds() {
        let mut results = Results::new(Vec::new());
        for (ours, theirs) in [(10.0, 5.0), (30.0, 10.0), (20.0, 10.0)] {
            results.add("any", PAIR, "ours", 1, ours);
            results.add("any", PAIR, "theirs", 1, theirs);
        }
        let table = results.table("any", PAIR);
        assert!(table.contains("| ours | 20.0 |  | 2.00 |"), "{table}");
        assert!(table.contains("| theirs | 10.0 | 0.50 |  |"), "{table}");
        results.add("any", PAIR, "ours", 8, 5.0);
        let table = results.table("any", PAIR);
        assert!(table.contains("| ours | 20.0 | 5.00 |"), "{table}");
    }

    #[test]
    fn contended_values_have_their_fairness_beside_them() {
        let mut results = Results::new(Vec::new());
        for fairness in [1.5, 9.0, 2.0] {
            let value = (3000.0, fairness);
            results.add_contended("any", CONTENDED, "ours", 16, value);
        }
        let table = results.table("any", CONTENDED);
        assert!(table.contains("longest wait over median wait"), "{table}");
        assert!(table.contains("| ours | 3000 (2.00) |"), "{table}");
    }
}
