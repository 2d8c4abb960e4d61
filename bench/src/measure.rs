//! What is measured of every implementation of a store, interleaved, so that drift of the machine hits
//! all alike.

use std::{sync::Arc, time::Duration};

use tenure_load::{Fight, Spread};

use crate::{
    contender::{Contender, Failure, Store, address},
    options::Options,
    program::Program,
    results::{Curve, Results, Work},
};

/// Rounds in which each implementation has its turn.
const ROUNDS: usize = 5;
/// How long one takes; those that begin with many tasks take longer, until each had its turn.
const SPAN: Duration = Duration::from_millis(500);
/// The same for waiters with a client each: with 64 of them a slow implementation has some 300
/// hand-overs in a second.
const EACH_SPAN: Duration = Duration::from_secs(1);
const TASKS: [usize; 4] = [1, 8, 64, 512];
/// Waiters of one client.
const WAITERS: [usize; 5] = [2, 16, 64, 128, 1000];
/// Waiters with a client each.
const EACH: [usize; 3] = [16, 64, 256];
/// Sizes that are measured in each round; the others, once.
const USUAL: [usize; 2] = [64, 16];

pub(crate) const MEDIAN: Work = work("acquire + release, alone: median", "us", "");
const P99: Work = work("acquire + release, alone: p99", "us", "");
const MANY: Work = work(
    "acquire + release, a lock for each task",
    "pairs/s",
    "tasks",
);

/// What is shown of one lock that many want.
struct One {
    rate: Work,
    hand: Work,
    hand_p99: Work,
    unfair: Work,
}

const OF_ONE: One = One {
    rate: work("one lock, waiters of one client", "hand-overs/s", "waiters"),
    hand: work(
        "one lock, waiters of one client: hand-over, median",
        "us",
        "waiters",
    ),
    hand_p99: work(
        "one lock, waiters of one client: hand-over, p99",
        "us",
        "waiters",
    ),
    unfair: work(
        "one lock, waiters of one client: longest wait over the median one",
        "x",
        "waiters",
    ),
};
/// The rate of waiters with a client each.
pub(crate) const EACH_RATE: Work = work(
    "one lock, a client for each waiter",
    "hand-overs/s",
    "waiters",
);
/// The fairness of waiters with a client each.
pub(crate) const EACH_UNFAIR: Work = work(
    "one lock, a client for each waiter: longest wait over the median one",
    "x",
    "waiters",
);
const OF_EACH: One = One {
    rate: EACH_RATE,
    hand: work(
        "one lock, a client for each waiter: hand-over, median",
        "us",
        "waiters",
    ),
    hand_p99: work(
        "one lock, a client for each waiter: hand-over, p99",
        "us",
        "waiters",
    ),
    unfair: EACH_UNFAIR,
};

impl One {
    fn add(&self, results: &mut Results, name: &str, who: &str, waiters: usize, fight: &Fight) {
        let hand_over = fight.hand_over.micros();
        results.add(name, self.rate, who, waiters, fight.rate);
        results.add(name, self.hand, who, waiters, hand_over.median);
        results.add(name, self.hand_p99, who, waiters, hand_over.p99);
        results.add(name, self.unfair, who, waiters, fight.unfairness());
    }
}

pub(crate) const fn work(title: &'static str, unit: &'static str, per: &'static str) -> Work {
    Work { title, unit, per }
}

/// Measures all of a store's implementations.
pub(crate) async fn measure(
    name: &str,
    store: &Store,
    options: &Options,
    results: &mut Results,
) -> Result<(), Failure> {
    let wanted = |contender: &&Arc<dyn Contender>| options.contender(contender.name());
    let contenders: Vec<_> = store.contenders.iter().filter(wanted).collect();
    let mut programs = Vec::new();
    if options.part("alone") || options.part("each") {
        for launch in store.launches.iter().filter(|l| options.contender(l.name)) {
            programs.push(launch.start(address(&store.url)).await?);
        }
    }
    let mut spreads = vec![Spread::default(); contenders.len() + programs.len()];
    for round in 0..=ROUNDS {
        let mut spreads = spreads.iter_mut();
        // The first round warms up, and the second one measures what is measured once.
        let mut add_alone = |results: &mut Results, who: &str, spread: Spread| {
            let all = spreads.next().filter(|_| round > 0);
            if let Some(all) = all {
                let shown = spread.micros();
                results.add(name, MEDIAN, who, 1, shown.median);
                results.add(name, P99, who, 1, shown.p99);
                *all = std::mem::take(all).and(spread);
            }
        };
        for contender in &contenders {
            if options.part("alone") {
                let spread = tenure_load::alone(contender, "alone", SPAN).await?;
                add_alone(results, contender.name(), spread);
            }
            if round > 0 {
                let sizes = |size: &usize| round == 1 || USUAL.contains(size);
                by_size(name, contender, options, results, &sizes).await?;
            }
        }
        for program in &mut programs {
            if options.part("alone") {
                let measured = program.measure(1, "alone", SPAN).await?;
                add_alone(results, program.name, measured.fight.waits);
            }
        }
        if options.part("each") {
            for waiters in EACH {
                let record = (round > 0).then_some(&mut *results);
                each(
                    name,
                    waiters,
                    &store.url,
                    &contenders,
                    &mut programs,
                    record,
                )
                .await?;
            }
        }
    }
    let names = contenders.iter().map(|contender| contender.name());
    let names = names.chain(programs.iter().map(|program| program.name));
    for (who, spread) in names.zip(&spreads) {
        if !spread.is_empty() {
            results.curves.push(Curve {
                store: name.to_owned(),
                title: "acquire + release, alone",
                who: who.to_owned(),
                points: curve(spread),
            });
        }
    }
    for program in programs {
        program.end().await?;
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
            OF_ONE.add(results, name, who, waiters, &fight);
        }
    }
    Ok(())
}

/// One lock that so many waiters want who have a client each, by one implementation after the other.
async fn each(
    name: &str,
    waiters: usize,
    url: &str,
    contenders: &[&Arc<dyn Contender>],
    programs: &mut [Program],
    mut results: Option<&mut Results>,
) -> Result<(), Failure> {
    for contender in contenders.iter().filter(|contender| contender.waits()) {
        // Its clients live for as long as it is measured: what they send to keep their sessions would
        // take time from the others.
        let Some(clients) = clients(contender, url, waiters).await? else {
            continue;
        };
        let fight = tenure_load::each(&clients, "each", EACH_SPAN).await?;
        for client in clients {
            client.close().await;
        }
        if let Some(results) = &mut results {
            OF_EACH.add(results, name, contender.name(), waiters, &fight);
        }
    }
    for program in programs {
        let measured = program.measure(waiters, "each", EACH_SPAN).await?;
        if let Some(results) = &mut results {
            OF_EACH.add(results, name, program.name, waiters, &measured.fight);
        }
    }
    Ok(())
}

/// So many clients of one implementation at this address; none if it has none.
pub(crate) async fn clients(
    contender: &Arc<dyn Contender>,
    url: &str,
    count: usize,
) -> Result<Option<Vec<Arc<dyn Contender>>>, Failure> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let Some(client) = contender.connect(url).await? else {
            return Ok(None);
        };
        clients.push(client);
    }
    Ok(Some(clients))
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
