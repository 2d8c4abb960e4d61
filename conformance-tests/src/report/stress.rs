//! The stress run: workers compete for a few locks for a short time. Its history is drawn as a timeline.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tenure_core::{
    Client,
    backend::Connect,
    clock::{Clock, SystemClock},
    name::Namespace,
};

use super::environment::millis;
use crate::{
    Harness,
    history::{Bounds, History, Recorder, Workload, check},
    wrap::{Fate, Op, Plan, Tap},
};

/// The TTL of the run, if the backend supports it.
const TTL: Duration = Duration::from_secs(3);
const CLIENTS: usize = 2;
const WORKERS_PER_CLIENT: usize = 2;
const LOCKS: usize = 2;
/// The longest time for which a worker holds a lock.
const HOLD: Duration = Duration::from_millis(120);
/// The tolerance for reports of losses and for grants on a busy machine.
const SLACK: Duration = Duration::from_secs(5);
/// The minimum number of grants, which the slowest store exceeds each second.
const MIN_GRANTS: usize = 6;

/// The result of a stress run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stress {
    /// The history of the run.
    pub history: History,
    /// The violations of the contract with their events, the shortest first.
    pub violations: Vec<String>,
    /// Why the run proves nothing; `None` if it is valid.
    pub error: Option<String>,
    /// The duration in milliseconds.
    pub duration_ms: u64,
}

impl Stress {
    /// Returns whether the run is valid and has no violation.
    #[must_use]
    pub const fn has_passed(&self) -> bool {
        self.violations.is_empty() && self.error.is_none()
    }

    /// Returns why the run did not pass.
    #[must_use]
    pub fn verdict(&self) -> Option<String> {
        let all = self.error.iter().chain(&self.violations);
        (!self.has_passed()).then(|| all.map(String::as_str).collect::<Vec<_>>().join("\n\n"))
    }
}

/// Runs four workers of two clients that compete for two locks for about the given time, with delayed
/// replies to one of the clients for a part of it, and checks the history. Call this function outside of
/// any runtime.
#[must_use]
pub fn stress(harness: &Arc<dyn Harness>, span: Duration) -> Stress {
    let began = SystemClock.now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let mut stress = match runtime {
        Err(error) => failed(format!("no runtime: {error}")),
        Ok(runtime) => {
            let stress = runtime.block_on(run(&**harness, span));
            runtime.shutdown_timeout(Duration::from_secs(1));
            stress.unwrap_or_else(failed)
        }
    };
    stress.duration_ms = millis(SystemClock.now().since(began));
    stress
}

fn failed(error: String) -> Stress {
    Stress {
        error: Some(error),
        ..Stress::default()
    }
}

async fn run(harness: &dyn Harness, span: Duration) -> Result<Stress, String> {
    let text = |error: tenure_core::error::Error| format!("cannot use the store: {error}");
    let env = harness.start().await.map_err(text)?;
    let plan = Plan::new();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let connector: Arc<dyn Connect> = match number {
            0 => Arc::new(Tap::new(env.connector(), &plan)),
            _ => env.connector(),
        };
        match connect(connector, env.namespace()).await {
            Ok(client) => clients.push(client),
            Err(error) => {
                env.finish().await;
                return Err(text(error));
            }
        }
    }
    let result = compete(&clients, &plan, span).await;
    for client in clients {
        client.shutdown(Duration::from_secs(2)).await;
    }
    env.finish().await;
    result
}

/// Connects a client with the supported TTL nearest to [`TTL`].
async fn connect(
    connector: Arc<dyn Connect>,
    namespace: Namespace,
) -> Result<Client, tenure_core::error::Error> {
    let builder = Client::builder(Arc::clone(&connector)).namespace(namespace.clone());
    let asked = builder.read_only(true).connect().await?;
    let range = asked.capabilities().ttl;
    asked.shutdown(Duration::from_secs(1)).await;
    let ttl = range.resolve(TTL, true)?;
    let builder = Client::builder(connector).namespace(namespace).ttl(ttl);
    builder.label("conformance").connect().await
}

async fn compete(clients: &[Client], plan: &Plan, span: Duration) -> Result<Stress, String> {
    let capabilities = clients
        .first()
        .map(Client::capabilities)
        .ok_or("there is no client")?;
    let ttl = capabilities.ttl.resolve(TTL, true).unwrap_or(TTL);
    let recorder = Recorder::new();
    let workload = Workload::start(&recorder, clients, WORKERS_PER_CLIENT, LOCKS, HOLD);
    tokio::time::sleep(span * 2 / 5).await;
    let slow = span / 5;
    let fault = recorder.fault(format!(
        "replies to client 1 delayed by {} ms",
        millis(slow / 2)
    ));
    let late = Fate::Delay {
        before: Duration::ZERO,
        after: slow / 2,
    };
    let all = [Op::Enqueue, Op::Renew, Op::Remove];
    for op in all {
        plan.set(op, late);
    }
    tokio::time::sleep(slow).await;
    for op in all {
        plan.set(op, Fate::Pass);
    }
    fault.end();
    tokio::time::sleep(span * 2 / 5).await;
    let history = workload
        .finish(MIN_GRANTS, 1)
        .await
        .map_err(|error| error.to_string())?;
    let bounds = Bounds::new(capabilities.takeover.of(ttl, ttl), SLACK);
    let violations = check(&history, &bounds)
        .iter()
        .map(ToString::to_string)
        .collect();
    Ok(Stress {
        history,
        violations,
        error: None,
        duration_ms: 0,
    })
}
