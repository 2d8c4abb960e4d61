//! The loads with and without contention. The implementations of a store take turns in each round, so
//! that drift of the machine affects all of them equally.

use std::{sync::Arc, time::Duration};

use tenure_load::{Contention, Percentiles};

use crate::{
    implementation::{Failure, Implementation, address},
    options::Options,
    peer::PeerProcess,
    results::{Curve, Metric, Results, metric},
    store::Store,
};

/// The number of rounds that count.
const ROUNDS: usize = 5;
/// The duration of one load. A load with many tasks takes longer if each task needs more time for its
/// first pair.
const SPAN: Duration = Duration::from_millis(500);
/// The duration of one load with a client for each waiter. With 64 waiters, a slow implementation has
/// some 300 hand-overs in this time.
const CONTENDED_SPAN: Duration = Duration::from_secs(1);
const TASKS: [usize; 4] = [1, 8, 64, 512];
/// Waiters that share one client.
const ONE_CLIENT_WAITERS: [usize; 5] = [2, 16, 64, 128, 1000];
/// Waiters with a client each.
const WAITERS: [usize; 2] = [16, 64];
/// On etcd, where a request grows with the queue.
const ETCD_WAITERS: [usize; 3] = [16, 64, 256];
/// Sizes that are measured in each round; other sizes are measured in one round.
const USUAL_SIZES: [usize; 2] = [16, 64];

pub(crate) const UNCONTENDED: Metric = metric("acquire + release, uncontended: median", "us", "");
const UNCONTENDED_P99: Metric = metric("acquire + release, uncontended: p99", "us", "");
pub(crate) const INDEPENDENT: Metric = metric(
    "acquire + release, a lock for each task",
    "pairs/s",
    "tasks",
);
/// The rate of hand-overs between waiters with a client each.
pub(crate) const CONTENDED: Metric = metric(
    "one lock, a client for each waiter",
    "hand-overs/s",
    "waiters",
);

/// The metrics of one lock with contention.
struct ContentionMetrics {
    rate: Metric,
    median: Metric,
    p99: Metric,
}

const CLIENT_EACH: ContentionMetrics = ContentionMetrics {
    rate: CONTENDED,
    median: metric(
        "one lock, a client for each waiter: hand-over, median",
        "us",
        "waiters",
    ),
    p99: metric(
        "one lock, a client for each waiter: hand-over, p99",
        "us",
        "waiters",
    ),
};
const ONE_CLIENT: ContentionMetrics = ContentionMetrics {
    rate: metric("one lock, waiters of one client", "hand-overs/s", "waiters"),
    median: metric(
        "one lock, waiters of one client: hand-over, median",
        "us",
        "waiters",
    ),
    p99: metric(
        "one lock, waiters of one client: hand-over, p99",
        "us",
        "waiters",
    ),
};

impl ContentionMetrics {
    fn add(
        &self,
        results: &mut Results,
        store: &str,
        implementation: &str,
        waiters: usize,
        contention: &Contention,
    ) {
        let hand_over = contention.hand_over.micros();
        for (metric, value) in [
            (self.rate, contention.rate),
            (self.median, hand_over.median),
            (self.p99, hand_over.p99),
        ] {
            let value = (value, contention.fairness());
            results.add_contended(store, metric, implementation, waiters, value);
        }
    }
}

/// Measures all implementations and peers of a store.
pub(crate) async fn measure(
    name: &str,
    store: &Store,
    options: &Options,
    results: &mut Results,
) -> Result<(), Failure> {
    let wanted = |one: &&Arc<dyn Implementation>| options.implementation(one.name());
    let implementations: Vec<_> = store.implementations.iter().filter(wanted).collect();
    let mut peers = Vec::new();
    if options.part("uncontended") || options.part("contended") {
        let wanted = store.peers.iter();
        for peer in wanted.filter(|peer| options.implementation(peer.name)) {
            peers.push(peer.start(address(&store.url)).await?);
        }
    }
    let waiters = if name == "etcd" {
        &ETCD_WAITERS[..]
    } else {
        &WAITERS
    };
    let mut distributions = vec![Percentiles::default(); implementations.len() + peers.len()];
    for round in 0..=ROUNDS {
        let mut distributions = distributions.iter_mut();
        let mut add_uncontended =
            |results: &mut Results, display_name: &str, measured: Percentiles| {
                let all = distributions.next().filter(|_| round > 0);
                if let Some(all) = all {
                    let micros = measured.micros();
                    results.add(name, UNCONTENDED, display_name, 1, micros.median);
                    results.add(name, UNCONTENDED_P99, display_name, 1, micros.p99);
                    *all = std::mem::take(all).merge(measured);
                }
            };
        for implementation in &implementations {
            if options.part("uncontended") {
                let lock = "uncontended";
                let measured = tenure_load::uncontended(implementation, lock, SPAN).await?;
                add_uncontended(results, implementation.name(), measured);
            }
            // Round 0 is a warm-up, and round 1 measures every size.
            if round > 0 {
                let sizes = |size: &usize| round == 1 || USUAL_SIZES.contains(size);
                measure_sizes(name, implementation, options, results, &sizes).await?;
            }
        }
        for peer in &mut peers {
            if options.part("uncontended") {
                let measured = peer.measure(1, "uncontended", SPAN).await?;
                add_uncontended(results, peer.name, measured.contention.waits);
            }
        }
        if options.part("contended") {
            for &waiters in waiters {
                let record = (round > 0).then_some(&mut *results);
                contend(
                    name,
                    waiters,
                    &store.url,
                    &implementations,
                    &mut peers,
                    record,
                )
                .await?;
            }
        }
    }
    let names = implementations.iter().map(|one| one.name());
    let names = names.chain(peers.iter().map(|peer| peer.name));
    for (implementation, distribution) in names.zip(&distributions) {
        if !distribution.is_empty() {
            results.curves.push(Curve {
                store: name.to_owned(),
                title: "acquire + release, uncontended",
                implementation: implementation.to_owned(),
                points: curve(distribution),
            });
        }
    }
    for peer in peers {
        peer.close().await?;
    }
    Ok(())
}

/// Measures the loads of one client with several tasks.
async fn measure_sizes(
    name: &str,
    implementation: &Arc<dyn Implementation>,
    options: &Options,
    results: &mut Results,
    sizes: &dyn Fn(&usize) -> bool,
) -> Result<(), Failure> {
    let display_name = implementation.name();
    if options.part("independent") {
        for tasks in TASKS.into_iter().filter(sizes) {
            let rate = tenure_load::independent(implementation, tasks, SPAN).await?;
            results.add(name, INDEPENDENT, display_name, tasks, rate);
        }
    }
    if options.part("one-client") && implementation.waits() {
        for waiters in ONE_CLIENT_WAITERS.into_iter().filter(sizes) {
            let lock = "one-client";
            let contention =
                tenure_load::contended_by_one_client(implementation, lock, waiters, SPAN).await?;
            ONE_CLIENT.add(results, name, display_name, waiters, &contention);
        }
    }
    Ok(())
}

/// Measures one lock that `waiters` waiters with a client each want, for one implementation after the
/// other.
async fn contend(
    name: &str,
    waiters: usize,
    url: &str,
    implementations: &[&Arc<dyn Implementation>],
    peers: &mut [PeerProcess],
    mut results: Option<&mut Results>,
) -> Result<(), Failure> {
    for implementation in implementations.iter().filter(|one| one.waits()) {
        // The clients exist only during their own measurement, because their keep-alives would take
        // time from the other implementations.
        let Some(clients) = connect_clients(implementation, url, waiters).await? else {
            continue;
        };
        let contention = tenure_load::contended(&clients, "contended", CONTENDED_SPAN).await?;
        for client in clients {
            client.close().await;
        }
        if let Some(results) = &mut results {
            CLIENT_EACH.add(results, name, implementation.name(), waiters, &contention);
        }
    }
    for peer in peers {
        let measured = peer.measure(waiters, "contended", CONTENDED_SPAN).await?;
        if let Some(results) = &mut results {
            CLIENT_EACH.add(results, name, peer.name, waiters, &measured.contention);
        }
    }
    Ok(())
}

/// Connects clients of one implementation; returns `None` if it cannot connect to a URL.
pub(crate) async fn connect_clients(
    implementation: &Arc<dyn Implementation>,
    url: &str,
    count: usize,
) -> Result<Option<Vec<Arc<dyn Implementation>>>, Failure> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let Some(client) = implementation.connect(url).await? else {
            return Ok(None);
        };
        clients.push(client);
    }
    Ok(Some(clients))
}

/// Returns enough points for a plot.
fn curve(distribution: &Percentiles) -> Vec<(f64, f64)> {
    let permille = (0..100).map(|hundredth| hundredth * 10).chain(990..1000);
    permille
        .filter_map(|permille| {
            let micros = distribution.at(permille).as_secs_f64() * 1e6;
            Some((f64::from(u32::try_from(permille).ok()?), micros))
        })
        .collect()
}
