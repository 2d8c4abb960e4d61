//! What was measured: numbers with their places, as a table and as JSON.

use std::fmt::Write;

use serde::Serialize;

/// What a number is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Work {
    /// In a few words.
    pub(crate) title: &'static str,
    /// The unit of its numbers.
    pub(crate) unit: &'static str,
    /// What the size counts; empty if there is but one.
    pub(crate) per: &'static str,
}

/// One number: its median over the rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Point {
    pub(crate) store: String,
    #[serde(flatten)]
    pub(crate) work: Work,
    pub(crate) who: String,
    pub(crate) size: usize,
    pub(crate) rounds: Vec<f64>,
}

impl Point {
    pub(crate) fn median(&self) -> f64 {
        median(self.rounds.clone())
    }
}

/// How the durations of one implementation are spread: pairs of thousandths and microseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Curve {
    pub(crate) store: String,
    pub(crate) title: &'static str,
    pub(crate) who: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// All of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    schema: &'static str,
    pub(crate) machine: Vec<(&'static str, String)>,
    pub(crate) stores: Vec<(String, String)>,
    /// What has to be known of a store's rows: versions, and who is missing.
    pub(crate) notes: Vec<(String, String)>,
    pub(crate) points: Vec<Point>,
    pub(crate) curves: Vec<Curve>,
}

impl Results {
    pub(crate) const fn new(machine: Vec<(&'static str, String)>) -> Self {
        Self {
            schema: "tenure.benchmark/1",
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

    pub(crate) fn add(&mut self, store: &str, work: Work, who: &str, size: usize, value: f64) {
        let place = |point: &&mut Point| {
            point.store == store && point.work == work && point.who == who && point.size == size
        };
        match self.points.iter_mut().find(place) {
            Some(point) => point.rounds.push(value),
            None => self.points.push(Point {
                store: store.to_owned(),
                work,
                who: who.to_owned(),
                size,
                rounds: vec![value],
            }),
        }
    }

    /// The works of a store, in the order in which they were first measured.
    pub(crate) fn works(&self, store: &str) -> Vec<Work> {
        let mut works = Vec::new();
        for point in self.points.iter().filter(|point| point.store == store) {
            if !works.contains(&point.work) {
                works.push(point.work);
            }
        }
        works
    }

    pub(crate) fn of(&self, store: &str, work: Work) -> impl Iterator<Item = &Point> {
        let store = store.to_owned();
        let of = move |point: &&Point| point.store == store && point.work == work;
        self.points.iter().filter(of)
    }

    fn find(&self, store: &str, work: Work, who: &str, size: usize) -> Option<&Point> {
        let mut points = self.of(store, work);
        points.find(|point| point.who == who && point.size == size)
    }

    /// How many times the one is of the other: the median of the rounds' ratios.
    pub(crate) fn ratio(
        &self,
        (store, work, size): (&str, Work, usize),
        one: &str,
        other: &str,
    ) -> Option<f64> {
        let one = self.find(store, work, one, size)?;
        let other = self.find(store, work, other, size)?;
        let pairs = one.rounds.iter().zip(&other.rounds);
        Some(median(pairs.map(|(one, other)| one / other).collect()))
    }

    /// One work on one store as a table of Markdown: a row for each implementation, a column for each size;
    /// with one size, the ratios to all others, round by round.
    pub(crate) fn table(&self, store: &str, work: Work) -> String {
        let (mut sizes, mut names) = (Vec::new(), Vec::new());
        for point in self.of(store, work) {
            if !sizes.contains(&point.size) {
                sizes.push(point.size);
            }
            if !names.contains(&&point.who) {
                names.push(&point.who);
            }
        }
        let mut text = String::new();
        let heads: Vec<String> = if let [_] = sizes[..] {
            let ratios = names.iter().map(|name| format!("x {name}"));
            std::iter::once(work.unit.to_owned())
                .chain(ratios)
                .collect()
        } else {
            sizes
                .iter()
                .map(|size| format!("{size} {}", work.per))
                .collect()
        };
        let _ = writeln!(
            text,
            "| {} ({}) | {} |",
            work.title,
            work.unit,
            heads.join(" | ")
        );
        let _ = writeln!(text, "|---|{}", "---:|".repeat(heads.len()));
        for name in &names {
            let mut cells: Vec<String> = sizes
                .iter()
                .map(|&size| {
                    let point = self.find(store, work, name, size);
                    point.map_or_else(String::new, |point| number(point.median()))
                })
                .collect();
            if let [size] = sizes[..] {
                cells.extend(names.iter().map(|other| {
                    let others = Some(other).filter(|other| **other != *name);
                    let ratio = others.and_then(|o| self.ratio((store, work, size), name, o));
                    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
                }));
            }
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        text
    }
}

/// As many digits as mean something.
fn number(value: f64) -> String {
    let digits = if value < 10.0 {
        2
    } else {
        usize::from(value < 1000.0)
    };
    format!("{value:.digits$}")
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Work = Work {
        title: "alone",
        unit: "us",
        per: "",
    };

    #[test]
    fn rows_are_medians_and_ratios_go_round_by_round() {
        let mut results = Results::new(Vec::new());
        for (ours, theirs) in [(10.0, 5.0), (30.0, 10.0), (20.0, 10.0)] {
            results.add("any", ALONE, "ours", 1, ours);
            results.add("any", ALONE, "theirs", 1, theirs);
        }
        let table = results.table("any", ALONE);
        assert!(table.contains("| ours | 20.0 |  | 2.00 |"), "{table}");
        assert!(table.contains("| theirs | 10.0 | 0.50 |  |"), "{table}");
        results.add("any", ALONE, "ours", 8, 5.0);
        assert!(
            results
                .table("any", ALONE)
                .contains("| ours | 20.0 | 5.00 |")
        );
    }
}
