//! What is measured of every contender of a store, interleaved, so that drift of the machine hits all
//! alike.

use std::{sync::Arc, time::Duration};

use tenure_load::Spread;

use crate::{
    contender::{Contender, Failure, Store},
    options::Options,
    results::{Curve, Results, Work},
};

/// Rounds in which each contender has its turn.
const ROUNDS: usize = 5;
/// How long one takes; those that begin with many tasks take longer, until each had its turn.
const SPAN: Duration = Duration::from_millis(500);
const TASKS: [usize; 4] = [1, 8, 64, 512];
const WAITERS: [usize; 4] = [2, 16, 128, 1000];
/// Sizes that are measured in each round; the others, once.
const USUAL: [usize; 2] = [64, 16];

const MEDIAN: Work = work("acquire + release, alone: median", "us", "");
const P99: Work = work("acquire + release, alone: p99", "us", "");
const MANY: Work = work(
    "acquire + release, a lock for each task",
    "pairs/s",
    "tasks",
);
const RATE: Work = work("one lock, many waiters", "hand-overs/s", "waiters");
const HAND: Work = work("one lock: hand-over, median", "us", "waiters");
const HAND_P99: Work = work("one lock: hand-over, p99", "us", "waiters");
const UNFAIR: Work = work("one lock: longest wait over the median one", "x", "waiters");

pub(crate) const fn work(title: &'static str, unit: &'static str, per: &'static str) -> Work {
    Work { title, unit, per }
}

/// Measures all of a store's contenders.
pub(crate) async fn measure(
    name: &str,
    store: &Store,
    options: &Options,
    results: &mut Results,
) -> Result<(), Failure> {
    let wanted = |contender: &&Arc<dyn Contender>| options.contender(contender.name());
    let contenders: Vec<_> = store.contenders.iter().filter(wanted).collect();
    let mut spreads = vec![Spread::default(); contenders.len()];
    for round in 0..=ROUNDS {
        for (contender, all) in contenders.iter().zip(&mut spreads) {
            // The first round warms up, and the second one measures what is measured once.
            if options.part("alone") {
                let spread = tenure_load::alone(contender, "alone", SPAN).await?;
                if round > 0 {
                    let shown = spread.micros();
                    results.add(name, MEDIAN, contender.name(), 1, shown.median);
                    results.add(name, P99, contender.name(), 1, shown.p99);
                    *all = std::mem::take(all).and(spread);
                }
            }
            if round > 0 {
                let sizes = |size: &usize| round == 1 || USUAL.contains(size);
                by_size(name, contender, options, results, &sizes).await?;
            }
        }
    }
    for (contender, spread) in contenders.iter().zip(&spreads) {
        if !spread.is_empty() {
            results.curves.push(Curve {
                store: name.to_owned(),
                title: "acquire + release, alone",
                who: contender.name().to_owned(),
                points: curve(spread),
            });
        }
    }
    Ok(())
}

/// What is measured by the number of tasks.
async fn by_size(
    name: &str,
    contender: &Arc<dyn Contender>,
    options: &Options,
    results: &mut Results,
    sizes: &dyn Fn(&usize) -> bool,
) -> Result<(), Failure> {
    let who = contender.name();
    if options.part("many") {
        for tasks in TASKS.into_iter().filter(sizes) {
            let pairs = tenure_load::many(contender, tasks, SPAN).await?;
            results.add(name, MANY, who, tasks, pairs);
        }
    }
    if options.part("one") && contender.waits() {
        for waiters in WAITERS.into_iter().filter(sizes) {
            let fight = tenure_load::one(contender, "one", waiters, SPAN).await?;
            let hand_over = fight.hand_over.micros();
            results.add(name, RATE, who, waiters, fight.rate);
            results.add(name, HAND, who, waiters, hand_over.median);
            results.add(name, HAND_P99, who, waiters, hand_over.p99);
            results.add(name, UNFAIR, who, waiters, fight.unfairness());
        }
    }
    Ok(())
}

/// Enough points to draw.
fn curve(spread: &Spread) -> Vec<(f64, f64)> {
    let permille = (0..100).map(|hundredth| hundredth * 10).chain(990..1000);
    permille
        .filter_map(|permille| {
            let micros = spread.at(permille).as_secs_f64() * 1e6;
            Some((f64::from(u32::try_from(permille).ok()?), micros))
        })
        .collect()
}
