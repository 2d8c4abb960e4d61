//! Servers that one case has for itself.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    clippy::allow_attributes,
    reason = "each deployment uses a part of it"
)]

use std::{sync::Arc, thread};

use async_trait::async_trait;
use tenure_conformance::servers::{DedicatedStore, ServerAction, Servers};
use tenure_core::{
    backend::Connect,
    error::{Error, ErrorKind},
};

const OPERATION: &str = "acting on servers of a case's own";

type Act = dyn Fn(ServerAction) -> Result<(), tenure_test_servers::Error> + Send + Sync;

/// What is done to them by an action; blocks.
pub(crate) struct DedicatedServers(Arc<Act>);

impl DedicatedServers {
    pub(crate) fn new(
        act: impl Fn(ServerAction) -> Result<(), tenure_test_servers::Error> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(act))
    }
}

#[async_trait]
impl Servers for DedicatedServers {
    async fn apply(&self, action: ServerAction) -> Result<(), Error> {
        let act = Arc::clone(&self.0);
        let outcome = tokio::task::spawn_blocking(move || act(action)).await;
        outcome
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))
    }
}

/// The store that runs on other servers: `start` starts them, blocks, and says how they are reached.
pub(crate) async fn store<A: Send + 'static>(
    start: impl FnOnce() -> Option<(A, DedicatedServers)> + Send + 'static,
    connect: impl FnOnce(&A) -> Result<Arc<dyn Connect>, Error>,
) -> Result<Option<DedicatedStore>, Error> {
    let started = tokio::task::spawn_blocking(start).await;
    let started = started.map_err(|error| failed(error.to_string()))?;
    started
        .map(|(access, own)| Ok(DedicatedStore::new(connect(&access)?, own)))
        .transpose()
}

fn failed(detail: String) -> Error {
    Error::new(ErrorKind::Unavailable, OPERATION).with_detail(detail)
}

/// The same to one server.
macro_rules! apply_to {
    ($server:expr, $action:expr) => {
        match $action {
            tenure_conformance::servers::ServerAction::Kill => {
                $server.kill();
                Ok(())
            }
            tenure_conformance::servers::ServerAction::Start => $server.restart(),
            tenure_conformance::servers::ServerAction::Pause => $server.pause(),
            tenure_conformance::servers::ServerAction::Resume => $server.resume(),
            _ => unreachable!("there are no other actions"),
        }
    };
}

pub(crate) use apply_to;

/// To several at once: none of them serves before the others do.
pub(crate) fn at_once<S: Sync>(
    servers: &[S],
    act: impl Fn(&S) -> Result<(), tenure_test_servers::Error> + Sync,
) -> Result<(), tenure_test_servers::Error> {
    thread::scope(|scope| {
        let acts: Vec<_> = servers
            .iter()
            .map(|server| scope.spawn(|| act(server)))
            .collect();
        acts.into_iter()
            .try_for_each(|act| act.join().expect("an action does not panic"))
    })
}
