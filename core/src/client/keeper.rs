//! The keeper: the one task per client that renews all its guards and reports all its waiters, in
//! batches, and notices deadlines (clauses K1, L1).

use std::sync::{Arc, Weak, atomic::Ordering};

use tokio::task::JoinSet;

use super::{hub::Hub, time};
use crate::{
    backend::Backend,
    clock::{Clock, Instant},
    telemetry,
};

/// Runs until the hub is gone. It holds no strong reference to it while it sleeps.
pub(super) async fn keep(hub: Weak<Hub>, backend: Arc<dyn Backend>) {
    let Some((bell, clock)) = hub
        .upgrade()
        .map(|hub| (hub.bell(), Arc::clone(&hub.clock)))
    else {
        return;
    };
    // A renewal that hangs must hold up neither the next one nor a deadline, so each runs by
    // itself.
    let mut calls = JoinSet::new();
    loop {
        let Some(strong) = hub.upgrade() else { break };
        if strong.reconnected.swap(false, Ordering::SeqCst) {
            calls.spawn(refresh(Arc::clone(&strong), Arc::clone(&backend)));
        }
        let (batch, alarm) = strong.collect();
        if let Some((renewals, batch)) = batch {
            let (hub, backend) = (Arc::clone(&strong), Arc::clone(&backend));
            calls.spawn(async move {
                telemetry::renewing(hub.scheme, renewals.len());
                // An answer that comes later than that proves nothing useful any more, for any of
                // them: a short TTL among them must not cut off the answers of the others.
                let longest = renewals.iter().map(|renewal| renewal.ttl * 2 / 3).max();
                let patience = longest.unwrap_or_default().min(hub.request_timeout);
                let limit = hub.now() + patience;
                let call = time::until(&*hub.clock, limit, backend.renew(renewals));
                if let Some(answers) = call.await {
                    batch.answered(answers);
                }
            });
        }
        drop(strong);
        // In a fixed order, as everywhere in the client: chance would make a simulated run another
        // one each time. None can starve another, since all that is due is looked at on each way
        // through.
        tokio::select! {
            biased;
            () = bell.notified() => {}
            () = sleep(&*clock, alarm) => {}
            Some(ended) = calls.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a backend failed while renewing");
                }
            }
        }
    }
}

async fn sleep(clock: &dyn Clock, alarm: Option<Instant>) {
    match alarm {
        Some(alarm) => clock.sleep_until(alarm).await,
        None => std::future::pending().await,
    }
}

/// Some capabilities are known only once connected, and may be others on the next connection.
async fn refresh(hub: Arc<Hub>, backend: Arc<dyn Backend>) {
    let limit = hub.now() + hub.request_timeout;
    match time::until(&*hub.clock, limit, backend.capabilities()).await {
        Some(Ok(capabilities)) => hub.set_capabilities(capabilities),
        Some(Err(error)) => tracing::warn!(%error, "could not read the capabilities again"),
        None => tracing::warn!("could not read the capabilities again: no answer"),
    }
}
