//! `tenure bench`: measures the speed of locks on the configured store.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tenure::{Client, Config, Registry, id::ClientId};
use tenure_load::{Locks, Micros};

use crate::{
    args::{Bench, Format, Global},
    escape::escape,
    exit::{Failure, UNAVAILABLE},
    output,
    setup::{load, runtime, sources},
};

#[derive(Serialize)]
struct View {
    schema: &'static str,
    backend: String,
    endpoint: String,
    namespace: String,
    alone_us: Micros,
    many: Many,
    one: One,
}

#[derive(Serialize)]
struct Many {
    tasks: usize,
    pairs_per_second: f64,
}

#[derive(Serialize)]
struct One {
    waiters: usize,
    hand_overs_per_second: f64,
    hand_over_us: Micros,
    wait_us: Micros,
    longest_wait_over_median: f64,
}

/// Measures in a separate namespace that no other client uses.
pub(super) fn bench(options: &Bench, global: &Global, registry: &Registry) -> Result<(), Failure> {
    let namespace = format!("bench-{}", ClientId::random()?);
    let sources = sources(global).set("backend.namespace", &namespace, "command bench");
    let config = load(&sources)?;
    let view = runtime()?.block_on(async {
        let client = config.connect(registry).await?;
        let view = measure(options, &config, &client).await;
        client.shutdown(Duration::from_secs(5)).await;
        view
    })?;
    match global.output {
        Format::Text => output::write(describe(&view)),
        Format::Json => output::write_json(&view),
    }
}

async fn measure(options: &Bench, config: &Config, client: &Client) -> Result<View, Failure> {
    let failed = |error: tenure_load::Failure| Failure::new(UNAVAILABLE, error.to_string());
    let locks = Arc::new(Locks::new("tenure", client.clone()));
    // The first turn is a warm-up.
    let warm = Duration::ZERO;
    tenure_load::alone(&locks, "alone", warm)
        .await
        .map_err(failed)?;
    let alone = tenure_load::alone(&locks, "alone", options.span).await;
    let many = tenure_load::many(&locks, options.tasks, options.span).await;
    let one = tenure_load::one(&locks, "one", options.waiters, options.span).await;
    let (alone, pairs, one) = (
        alone.map_err(failed)?,
        many.map_err(failed)?,
        one.map_err(failed)?,
    );
    let info = client.info();
    Ok(View {
        schema: "tenure.bench/1",
        backend: info.scheme.to_string(),
        endpoint: info.endpoint.to_string(),
        namespace: config.namespace.as_str().to_owned(),
        alone_us: alone.micros(),
        many: Many {
            tasks: options.tasks,
            pairs_per_second: pairs,
        },
        one: One {
            waiters: options.waiters,
            hand_overs_per_second: one.rate,
            hand_over_us: one.hand_over.micros(),
            wait_us: one.waits.micros(),
            longest_wait_over_median: one.unfairness(),
        },
    })
}

fn describe(view: &View) -> String {
    let (alone, one) = (&view.alone_us, &view.one);
    format!(
        "{}\n\
         alone        acquire + release: median {:.0} us, p99 {:.0} us\n\
         many locks   {} tasks with a lock each: {:.0} acquire + release/s\n\
         one lock     {} waiters: {:.0} hand-overs/s, each median {:.0} us, p99 {:.0} us\n\
         fairness     the longest wait was {:.1} times the median one\n",
        escape(&view.endpoint),
        alone.median,
        alone.p99,
        view.many.tasks,
        view.many.pairs_per_second,
        one.waiters,
        one.hand_overs_per_second,
        one.hand_over_us.median,
        one.hand_over_us.p99,
        one.longest_wait_over_median,
    )
}
