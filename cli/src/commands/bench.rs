//! `tenure bench`: measures the speed of locks on the configured store.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tenure::{Client, Config, Registry, id::ClientId};
use tenure_load::{Micros, TenureLocks};

use crate::{
    args::{Bench, Format, Global},
    escape::escape,
    exit::{Failure, UNAVAILABLE},
    output,
    setup::{load, runtime, sources},
};

/// How long a client may take to end its session.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// The lock without contention, and the one for which all waiters compete.
const UNCONTENDED: &str = "uncontended";
const CONTENDED: &str = "contended";

#[derive(Serialize)]
struct View {
    schema: &'static str,
    backend: String,
    endpoint: String,
    namespace: String,
    uncontended_us: Micros,
    independent: Independent,
    contended: Contended,
}

#[derive(Serialize)]
struct Independent {
    tasks: usize,
    pairs_per_second: f64,
}

#[derive(Serialize)]
struct Contended {
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
    let mut clients = Vec::new();
    let view = runtime()?.block_on(async {
        let view = measure(options, &config, registry, &mut clients).await;
        discard(options, clients.first()).await;
        for client in &clients {
            client.shutdown(SHUTDOWN_TIMEOUT).await;
        }
        view
    })?;
    match global.output {
        Format::Text => output::write(describe(&view)),
        Format::Json => output::write_json(&view),
    }
}

/// Deletes the states of the locks, which are free. After a failure they stay, as after any use of a lock.
async fn discard(options: &Bench, client: Option<&Client>) {
    let Some(client) = client else { return };
    let independent = (0..options.tasks).map(tenure_load::independent_lock);
    for name in [UNCONTENDED, CONTENDED]
        .map(str::to_owned)
        .into_iter()
        .chain(independent)
    {
        if client.discard(&name).await.is_err() {
            return;
        }
    }
}

/// Runs the three measurements. The caller shuts down the `clients`, even after a failure.
async fn measure(
    options: &Bench,
    config: &Config,
    registry: &Registry,
    clients: &mut Vec<Client>,
) -> Result<View, Failure> {
    let failed = |error: tenure_load::Failure| Failure::new(UNAVAILABLE, error.to_string());
    let client = config.connect(registry).await?;
    clients.push(client.clone());
    let locks = Arc::new(TenureLocks::new(client.clone()));
    // The first pair is a warm-up.
    tenure_load::uncontended(&locks, UNCONTENDED, Duration::ZERO)
        .await
        .map_err(failed)?;
    let uncontended = tenure_load::uncontended(&locks, UNCONTENDED, options.span)
        .await
        .map_err(failed)?;
    let pairs_per_second = tenure_load::independent(&locks, options.tasks, options.span)
        .await
        .map_err(failed)?;
    while clients.len() < options.waiters {
        clients.push(config.connect(registry).await?);
    }
    let waiters = clients.iter().take(options.waiters);
    let waiters: Vec<_> = waiters
        .map(|client| Arc::new(TenureLocks::new(client.clone())))
        .collect();
    let contention = tenure_load::contended(&waiters, CONTENDED, options.span)
        .await
        .map_err(failed)?;
    let info = client.info();
    Ok(View {
        schema: "tenure.bench/1",
        backend: info.scheme.to_string(),
        endpoint: info.endpoint.to_string(),
        namespace: config.namespace.as_str().to_owned(),
        uncontended_us: uncontended.micros(),
        independent: Independent {
            tasks: options.tasks,
            pairs_per_second,
        },
        contended: Contended {
            waiters: options.waiters,
            hand_overs_per_second: contention.rate,
            hand_over_us: contention.hand_over.micros(),
            wait_us: contention.waits.micros(),
            longest_wait_over_median: contention.fairness(),
        },
    })
}

fn describe(view: &View) -> String {
    let (uncontended, contended) = (&view.uncontended_us, &view.contended);
    format!(
        "{}\n\
         uncontended  acquire + release: median {:.0} us, p99 {:.0} us\n\
         independent  {} tasks with a lock each: {:.0} acquire + release/s\n\
         contended    {} waiters with a client each: {:.0} hand-overs/s, each median {:.0} us, p99 {:.0} us\n\
         fairness     longest wait over median wait: {:.1}\n",
        escape(&view.endpoint),
        uncontended.median,
        uncontended.p99,
        view.independent.tasks,
        view.independent.pairs_per_second,
        contended.waiters,
        contended.hand_overs_per_second,
        contended.hand_over_us.median,
        contended.hand_over_us.p99,
        contended.longest_wait_over_median,
    )
}
