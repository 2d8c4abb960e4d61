//! The leases of one client: one for each TTL, created when the first attempt needs it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use etcd_client::GetOptions;
use tenure_core::{
    clock::{Clock, Instant},
    error::ErrorKind,
};
use tokio::{sync::Notify, task::JoinSet, time};

use super::{Lease, LeaseRef};
use crate::{error::RequestError, keepalive_validity::RaftTerm, transport::Endpoints};

/// After this time without a user, a lease is revoked.
const IDLE_LEASE_TIMEOUT: Duration = Duration::from_secs(120);

/// How often a keep-alive is repeated after a leader change has made its reply worthless.
const MAX_KEEPALIVE_ATTEMPTS: usize = 3;

/// The leases of one client.
#[derive(Debug)]
pub(crate) struct LeasePool {
    endpoints: Arc<Endpoints>,
    clock: Arc<dyn Clock>,
    /// A key that never exists.
    absent_key: String,
    state: Mutex<PoolState>,
    grant_lock: tokio::sync::Mutex<()>,
    lease_added: Arc<Notify>,
}

#[derive(Debug, Default)]
struct PoolState {
    /// The leases that new attempts use, by TTL in seconds.
    current: HashMap<u64, Arc<Lease>>,
    /// All leases that the store may still have.
    all: Vec<Arc<Lease>>,
}

impl LeasePool {
    pub(crate) fn new(
        endpoints: Arc<Endpoints>,
        clock: Arc<dyn Clock>,
        absent_key: String,
    ) -> Self {
        Self {
            endpoints,
            clock,
            absent_key,
            state: Mutex::default(),
            grant_lock: tokio::sync::Mutex::default(),
            lease_added: Arc::default(),
        }
    }

    /// Returns a reference to a lease with this TTL and a recent proof. Creates the lease if there
    /// is none.
    pub(crate) async fn acquire(&self, ttl: Duration) -> Result<LeaseRef, RequestError> {
        let ttl_seconds = ttl.as_secs().max(1);
        if let Some(lease_ref) = self.reuse(ttl_seconds) {
            return Ok(lease_ref);
        }
        // Boxed, because this is rare and the future is large.
        Box::pin(self.acquire_slow(ttl_seconds)).await
    }

    async fn acquire_slow(&self, ttl_seconds: u64) -> Result<LeaseRef, RequestError> {
        let _one_at_a_time = self.grant_lock.lock().await;
        if let Some(lease_ref) = self.reuse(ttl_seconds) {
            return Ok(lease_ref);
        }
        let stale = self.lock().current.get(&ttl_seconds).map(Arc::clone);
        if let Some(lease) = stale.filter(|lease| !lease.is_retired()) {
            match self.refresh(&lease).await {
                // The pool may have revoked it in the meantime, because it was idle.
                Ok(()) => {
                    if let Some(lease_ref) = self.reference(&lease) {
                        return Ok(lease_ref);
                    }
                }
                Err(RequestError::LeaseGone) => self.mark_expired(&lease),
                Err(error) => return Err(error),
            }
        }
        let lease = self.grant(ttl_seconds).await?;
        let mut state = self.lock();
        state.current.insert(ttl_seconds, Arc::clone(&lease));
        state.all.push(Arc::clone(&lease));
        let shortest = state.all.iter().map(|lease| lease.ttl).min();
        drop(state);
        self.endpoints.set_failover_timeout(shortest);
        self.lease_added.notify_one();
        Ok(LeaseRef::new(lease, Arc::clone(&self.clock)))
    }

    async fn grant(&self, ttl_seconds: u64) -> Result<Arc<Lease>, RequestError> {
        let seconds = i64::try_from(ttl_seconds).unwrap_or(i64::MAX);
        let from = self.clock.now();
        let (id, ttl) = self.request_grant(seconds).await?;
        Ok(Arc::new(Lease::new(id, ttl, from)))
    }

    /// Requests a lease. If the reply is lost, the lease affects no lock and expires.
    pub(crate) async fn request_grant(
        &self,
        seconds: i64,
    ) -> Result<(i64, Duration), RequestError> {
        let granted = self
            .endpoints
            .call_any(seconds, |connection, seconds| async move {
                connection.client.lease_client().grant(seconds, None).await
            })
            .await;
        match granted {
            Ok(granted) => {
                let seconds =
                    u64::try_from(granted.ttl()).map_err(|_| RequestError::malformed_reply())?;
                Ok((granted.id(), Duration::from_secs(seconds)))
            }
            Err(RequestError::Unanswered { source, .. }) => Err(RequestError::Unsent {
                kind: ErrorKind::Unavailable,
                detail: "no server granted a lease in time".to_owned(),
                source,
            }),
            Err(error) => Err(error),
        }
    }

    /// Proves a lease anew, by a keep-alive and, where needed, the transaction that makes it valid.
    pub(crate) async fn refresh(&self, lease: &Lease) -> Result<(), RequestError> {
        for _ in 0..MAX_KEEPALIVE_ATTEMPTS {
            let reply = lease.keep_alive(&self.endpoints, &*self.clock).await?;
            if reply.is_trusted() || reply.is_valid(self.current_term().await?) {
                lease.prove(reply.sent_at);
                return Ok(());
            }
        }
        Err(RequestError::no_reply())
    }

    /// The server that answers and its raft term, from a linearizable read of an absent key.
    async fn current_term(&self) -> Result<Option<RaftTerm>, RequestError> {
        let read = self
            .endpoints
            .call_any(self.absent_key.clone(), |connection, key| async move {
                let options = GetOptions::new().with_keys_only();
                connection.client.kv_client().get(key, Some(options)).await
            });
        Ok(read.await?.header().map(RaftTerm::of))
    }

    /// Removes a lease that the store no longer has.
    pub(crate) fn mark_expired(&self, lease: &Arc<Lease>) {
        lease.mark_expired();
        let mut state = self.lock();
        state.current.retain(|_, one| !Arc::ptr_eq(one, lease));
        state.all.retain(|one| !Arc::ptr_eq(one, lease));
        let shortest = state.all.iter().map(|lease| lease.ttl).min();
        drop(state);
        self.endpoints.set_failover_timeout(shortest);
    }

    /// Revokes all leases, as far as the time limit allows.
    pub(crate) async fn close(&self, within: Duration) {
        let all = {
            let mut state = self.lock();
            state.current.clear();
            std::mem::take(&mut state.all)
        };
        let mut revocations = JoinSet::new();
        for lease in all {
            lease.mark_expired();
            let endpoints = Arc::clone(&self.endpoints);
            revocations.spawn(async move { revoke(&endpoints, lease.id).await });
        }
        let done = async { while revocations.join_next().await.is_some() {} };
        let _ = time::timeout(within, done).await;
    }

    /// Keeps the leases alive that no attempt renews, and revokes unused ones. Runs until the pool
    /// is dropped.
    pub(crate) async fn run(pool: Weak<Self>) {
        while let Some(strong) = pool.upgrade() {
            strong.maintain().await;
            let (interval, lease_added) = (
                strong.maintenance_interval(),
                Arc::clone(&strong.lease_added),
            );
            drop(strong);
            match interval {
                Some(interval) => {
                    let _ = time::timeout(interval, lease_added.notified()).await;
                }
                None => lease_added.notified().await,
            }
        }
    }

    async fn maintain(self: &Arc<Self>) {
        let now = self.clock.now();
        let mut due = JoinSet::new();
        let mut to_revoke = Vec::new();
        {
            let mut state = self.lock();
            let PoolState { current, all } = &mut *state;
            all.retain(|lease| {
                let unused = lease.unused_since().is_some_and(|since| {
                    now.since(since) >= IDLE_LEASE_TIMEOUT || lease.is_retired()
                });
                if unused {
                    lease.mark_expired();
                    current.retain(|_, one| !Arc::ptr_eq(one, lease));
                    to_revoke.push(lease.id);
                }
                !unused
            });
            for lease in all.iter().filter(|lease| lease.needs_pool_keep_alive(now)) {
                let (pool, lease) = (Arc::clone(self), Arc::clone(lease));
                due.spawn(async move {
                    if let Err(RequestError::LeaseGone) = pool.refresh(&lease).await {
                        pool.mark_expired(&lease);
                    }
                });
            }
        }
        for id in to_revoke {
            let endpoints = Arc::clone(&self.endpoints);
            due.spawn(async move { revoke(&endpoints, id).await });
        }
        while due.join_next().await.is_some() {}
    }

    fn maintenance_interval(&self) -> Option<Duration> {
        let state = self.lock();
        state.all.iter().map(|lease| lease.ttl / 6).min()
    }

    fn reuse(&self, ttl_seconds: u64) -> Option<LeaseRef> {
        let now: Instant = self.clock.now();
        let state = self.lock();
        let lease = state.current.get(&ttl_seconds)?;
        // Taken under the mutex, so that `maintain` cannot see the lease as unused in the meantime.
        (lease.is_recently_proved(now) && !lease.is_retired())
            .then(|| LeaseRef::new(Arc::clone(lease), Arc::clone(&self.clock)))
    }

    /// Returns a reference to a lease that was just proved, or `None` if the pool revoked it in the
    /// meantime.
    fn reference(&self, lease: &Arc<Lease>) -> Option<LeaseRef> {
        // Taken under the mutex, so that `maintain` cannot see the lease as unused in the meantime.
        let _state = self.lock();
        (!lease.is_retired()).then(|| LeaseRef::new(Arc::clone(lease), Arc::clone(&self.clock)))
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn revoke(endpoints: &Endpoints, id: i64) {
    let revoked = endpoints
        .call_any(id, |connection, id| async move {
            connection.client.lease_client().revoke(id).await
        })
        .await;
    match revoked {
        Ok(_) | Err(RequestError::LeaseGone) => {}
        Err(error) => tracing::debug!(?error, "lease not revoked; it expires"),
    }
}

#[cfg(test)]
mod tests {
    use tenure_core::{
        backend::{BackendEvent, EventHandler, EventSink},
        clock::ManualClock,
        settings::StoreUrl,
    };

    use super::*;
    use crate::{address::Address, config::Options};

    struct IgnoreEvents;

    impl EventHandler for IgnoreEvents {
        fn handle(&self, _event: BackendEvent) {}
    }

    #[tokio::test]
    async fn x1_revoked_lease_takes_no_new_attempt() {
        let options = Options::default();
        let address = Address::new(&StoreUrl::parse("etcd://127.0.0.1:1").unwrap(), &options);
        let handler: Arc<dyn EventHandler> = Arc::new(IgnoreEvents);
        let sink = EventSink::new(Arc::downgrade(&handler));
        let limit = Duration::from_millis(300);
        let endpoints = Endpoints::new(address.unwrap(), options, sink, limit);
        let clock = Arc::new(ManualClock::default());
        let time: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let pool = Arc::new(LeasePool::new(Arc::new(endpoints), time, String::new()));
        let lease = Arc::new(Lease::new(1, Duration::from_secs(3600), clock.now()));
        pool.lock().all.push(Arc::clone(&lease));
        clock.advance(IDLE_LEASE_TIMEOUT * 2);
        let lease_ref = pool.reference(&lease);
        assert!(lease_ref.is_some());
        pool.maintain().await;
        // The lease was in use.
        assert!(pool.reference(&lease).is_some());
        drop(lease_ref);
        clock.advance(IDLE_LEASE_TIMEOUT);
        pool.maintain().await;
        assert!(pool.reference(&lease).is_none(), "it is being revoked");
    }
}
