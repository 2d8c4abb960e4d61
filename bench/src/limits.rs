//! The ratios that are to be reached, as a table in which each can be checked.

use std::fmt::Write;

use crate::{
    measure::{EACH_RATE, EACH_UNFAIR, MEDIAN},
    program::{CURATOR, KAZOO},
    results::{Results, Work},
    zookeeper::RECIPE,
};

/// What is asked of a ratio.
#[derive(Clone, Copy, Debug)]
enum Need {
    AtMost(f64),
    AtLeast(f64),
    /// Nothing: it is shown.
    None,
}

/// `tenure` over another implementation, on one store, with so many waiters.
struct Limit {
    store: &'static str,
    work: Work,
    size: usize,
    other: &'static str,
    need: Need,
}

const fn zookeeper(work: Work, size: usize, other: &'static str, need: Need) -> Limit {
    Limit {
        store: "zookeeper",
        work,
        size,
        other,
        need,
    }
}

const LIMITS: [Limit; 15] = [
    zookeeper(MEDIAN, 1, RECIPE, Need::AtMost(1.1)),
    zookeeper(MEDIAN, 1, CURATOR, Need::None),
    zookeeper(MEDIAN, 1, KAZOO, Need::None),
    zookeeper(EACH_RATE, 16, RECIPE, Need::AtLeast(1.0)),
    zookeeper(EACH_RATE, 16, CURATOR, Need::AtLeast(1.0)),
    zookeeper(EACH_RATE, 16, KAZOO, Need::AtLeast(2.0)),
    zookeeper(EACH_RATE, 64, RECIPE, Need::AtLeast(1.0)),
    zookeeper(EACH_RATE, 64, CURATOR, Need::AtLeast(1.0)),
    zookeeper(EACH_RATE, 64, KAZOO, Need::AtLeast(2.0)),
    zookeeper(EACH_UNFAIR, 16, RECIPE, Need::None),
    zookeeper(EACH_UNFAIR, 16, CURATOR, Need::None),
    zookeeper(EACH_UNFAIR, 16, KAZOO, Need::None),
    zookeeper(EACH_UNFAIR, 64, RECIPE, Need::None),
    zookeeper(EACH_UNFAIR, 64, CURATOR, Need::None),
    zookeeper(EACH_UNFAIR, 64, KAZOO, Need::None),
];

/// Those of a store of which both sides were measured; none if there are none.
pub(crate) fn table(results: &Results, store: &str) -> Option<String> {
    let mut text = String::new();
    for limit in LIMITS.iter().filter(|limit| limit.store == store) {
        let place = (store, limit.work, limit.size);
        let Some(ratio) = results.ratio(place, "tenure", limit.other) else {
            continue;
        };
        let (need, reached) = match limit.need {
            Need::AtMost(most) => (format!("at most {most:.1}"), yes(ratio <= most)),
            Need::AtLeast(least) => (format!("at least {least:.1}"), yes(ratio >= least)),
            Need::None => (String::new(), ""),
        };
        let size = match limit.work.per {
            "" => String::new(),
            per => format!(", {} {per}", limit.size),
        };
        let _ = writeln!(
            text,
            "| {}{size} ({}) | {} | {ratio:.2} | {need} | {reached} |",
            limit.work.title, limit.work.unit, limit.other
        );
    }
    (!text.is_empty()).then(|| {
        format!(
            "| tenure over another implementation | | ratio | to be reached | reached |\n\
             |---|---|---:|---|---|\n{text}"
        )
    })
}

const fn yes(reached: bool) -> &'static str {
    if reached { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_shown_with_what_is_asked_of_it() {
        let mut results = Results::new(Vec::new());
        assert_eq!(table(&results, "zookeeper"), None);
        for (who, rate) in [("tenure", 1500.0), (RECIPE, 1000.0), (KAZOO, 1000.0)] {
            results.add("zookeeper", EACH_RATE, who, 16, rate);
        }
        let table = table(&results, "zookeeper").unwrap();
        let of = |who: &str| table.lines().find(|line| line.contains(who)).unwrap();
        assert!(
            of(RECIPE).ends_with("| 1.50 | at least 1.0 | yes |"),
            "{table}"
        );
        assert!(
            of(KAZOO).ends_with("| 1.50 | at least 2.0 | no |"),
            "{table}"
        );
        assert!(!table.contains(CURATOR), "{table}");
    }
}
