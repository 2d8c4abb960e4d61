//! A short run of workers who fight over a few locks: what the drawn timeline is made from.

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

/// The TTL of the run, if the backend can give it.
const TTL: Duration = Duration::from_secs(3);
const CLIENTS: usize = 2;
const WORKERS_PER_CLIENT: usize = 2;
const LOCKS: usize = 2;
/// How long a worker holds a lock in one turn, at most.
const HOLD: Duration = Duration::from_millis(120);
/// How late a loss may be told and a waiter served, on a machine that is busy with other things.
const SLACK: Duration = Duration::from_secs(5);
/// Fewer grants prove nothing, whatever the store: it takes less than that in each second.
const GRANTS: usize = 6;

/// What workers saw who fought over a few locks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stress {
    /// All that was recorded.
    pub history: History,
    /// What the contract does not allow, each with the events that show it; the shortest first.
    pub violations: Vec<String>,
    /// Why the run proves nothing, if it does not.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

impl Stress {
    /// Whether it accuses nobody, and took place.
    #[must_use]
    pub const fn has_passed(&self) -> bool {
        self.violations.is_empty() && self.error.is_none()
    }

    /// Why it did not pass.
    #[must_use]
    pub fn verdict(&self) -> Option<String> {
        let all = self.error.iter().chain(&self.violations);
        (!self.has_passed()).then(|| all.map(String::as_str).collect::<Vec<_>>().join("\n\n"))
    }
}

/// Lets four workers of two clients fight over two locks for about that long, while the answers to
/// one of the clients are held back for a moment, and checks the history of it. From outside of any
/// runtime.
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
    let text = |error: tenure_core::error::Error| format!("the store could not be used: {error}");
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
    let fought = fight(&clients, &plan, span).await;
    for client in clients {
        client.shutdown(Duration::from_secs(2)).await;
    }
    env.finish().await;
    fought
}

/// A client with the TTL that is nearest to the wanted one.
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

async fn fight(clients: &[Client], plan: &Plan, span: Duration) -> Result<Stress, String> {
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
        "answers to client 1 come {} ms late",
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
        .finish(GRANTS, 1)
        .await
        .map_err(|quiet| quiet.to_string())?;
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
