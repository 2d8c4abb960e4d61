//! The renewer: one task per client that renews all guards and reports all waiters in batches, and
//! detects passed deadlines (clauses K1, L1).

use std::{
    pin::pin,
    sync::{Arc, Weak, atomic::Ordering},
};

use tokio::task::JoinSet;

use super::{dispatcher::Dispatcher, timeout::timeout_at};
use crate::{
    backend::Backend,
    clock::{Clock, Instant},
    telemetry,
};

/// Runs until the dispatcher is gone. It holds no strong reference to the dispatcher while it
/// sleeps.
pub(super) async fn run(dispatcher: Weak<Dispatcher>, backend: Arc<dyn Backend>) {
    let Some((wakeup, clock)) = dispatcher
        .upgrade()
        .map(|dispatcher| (dispatcher.wakeup(), Arc::clone(&dispatcher.clock)))
    else {
        return;
    };
    // A renewal that hangs must delay neither the next one nor a deadline, so each call runs in its
    // own task.
    let mut calls = JoinSet::new();
    loop {
        let Some(strong) = dispatcher.upgrade() else {
            break;
        };
        if strong.reconnected.swap(false, Ordering::SeqCst) {
            calls.spawn(refresh_capabilities(
                Arc::clone(&strong),
                Arc::clone(&backend),
            ));
        }
        let (batch, next_wakeup) = strong.collect_due();
        if let Some((renewals, batch)) = batch {
            let (dispatcher, backend) = (Arc::clone(&strong), Arc::clone(&backend));
            calls.spawn(async move {
                telemetry::renewing(dispatcher.scheme, renewals.len());
                // A later answer proves nothing useful for any entry. The longest TTL counts,
                // because a short TTL must not cut off the answers of the other entries.
                let longest = renewals.iter().map(|renewal| renewal.ttl * 2 / 3).max();
                let now = dispatcher.now();
                let useful_until = now + longest.unwrap_or_default();
                let overdue_at = useful_until.min(now + dispatcher.request_timeout);
                let batch = Arc::new(batch);
                let mut call = pin!(backend.renew(renewals, batch.answers()));
                let clock = &*dispatcher.clock;
                // A backend may need several requests for an answer, so a slow network can make it
                // late. A late answer still counts; meanwhile the entries are renewed again.
                if timeout_at(clock, overdue_at, call.as_mut()).await.is_none() {
                    batch.mark_overdue();
                    let _ = timeout_at(clock, useful_until, call).await;
                }
            });
        }
        drop(strong);
        // Polled in a fixed order, as everywhere in the client: a random order would make simulated
        // runs irreproducible. No branch can starve another, because each iteration handles
        // everything that is due.
        tokio::select! {
            biased;
            () = wakeup.notified() => {}
            () = sleep(&*clock, next_wakeup) => {}
            Some(ended) = calls.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a backend failed while renewing");
                }
            }
        }
    }
}

async fn sleep(clock: &dyn Clock, next_wakeup: Option<Instant>) {
    match next_wakeup {
        Some(next_wakeup) => clock.sleep_until(next_wakeup).await,
        None => std::future::pending().await,
    }
}

/// Reads the capabilities again. Some are known only after connecting and can differ on the next
/// connection.
async fn refresh_capabilities(dispatcher: Arc<Dispatcher>, backend: Arc<dyn Backend>) {
    let limit = dispatcher.now() + dispatcher.request_timeout;
    match timeout_at(&*dispatcher.clock, limit, backend.capabilities()).await {
        Some(Ok(capabilities)) => dispatcher.set_capabilities(capabilities),
        Some(Err(error)) => tracing::warn!(%error, "could not read the capabilities again"),
        None => tracing::warn!("could not read the capabilities again: no answer"),
    }
}
