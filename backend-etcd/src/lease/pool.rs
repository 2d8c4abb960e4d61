//! The leases of one client: one for each TTL, made when the first attempt needs it.

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

use super::{Lease, Seat};
use crate::{error::Fault, keepalive_validity::Term, transport::Link};

/// A lease that nobody uses is given back after that.
const IDLE: Duration = Duration::from_secs(120);

/// How often a keep-alive is repeated whose answer a change of the leader has made worthless.
const TRIES: usize = 3;

/// The leases of one client.
#[derive(Debug)]
pub(crate) struct Pool {
    link: Arc<Link>,
    clock: Arc<dyn Clock>,
    /// A key that never exists.
    nowhere: String,
    state: Mutex<State>,
    granting: tokio::sync::Mutex<()>,
    news: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// By TTL in seconds, those that new attempts use.
    current: HashMap<u64, Arc<Lease>>,
    /// All that the store may still have.
    all: Vec<Arc<Lease>>,
}

impl Pool {
    pub(crate) fn new(link: Arc<Link>, clock: Arc<dyn Clock>, nowhere: String) -> Self {
        Self {
            link,
            clock,
            nowhere,
            state: Mutex::default(),
            granting: tokio::sync::Mutex::default(),
            news: Arc::default(),
        }
    }

    /// A place on a lease with that TTL, whose proof is recent. Makes the lease if there is none.
    pub(crate) async fn seat(&self, ttl: Duration) -> Result<Seat, Fault> {
        let class = ttl.as_secs().max(1);
        if let Some(seat) = self.ready(class) {
            return Ok(seat);
        }
        // Rare, and large.
        Box::pin(self.make(class)).await
    }

    async fn make(&self, class: u64) -> Result<Seat, Fault> {
        let _one_at_a_time = self.granting.lock().await;
        if let Some(seat) = self.ready(class) {
            return Ok(seat);
        }
        let stale = self.lock().current.get(&class).map(Arc::clone);
        if let Some(lease) = stale.filter(|lease| !lease.is_spent()) {
            match self.refresh(&lease).await {
                // It may have been given back meanwhile, having been idle.
                Ok(()) => {
                    if let Some(seat) = self.take(&lease) {
                        return Ok(seat);
                    }
                }
                Err(Fault::LeaseGone) => self.bury(&lease),
                Err(fault) => return Err(fault),
            }
        }
        let lease = self.grant(class).await?;
        let mut state = self.lock();
        state.current.insert(class, Arc::clone(&lease));
        state.all.push(Arc::clone(&lease));
        let shortest = state.all.iter().map(|lease| lease.ttl).min();
        drop(state);
        self.link.set_patience(shortest);
        self.news.notify_one();
        Ok(Seat::new(lease, Arc::clone(&self.clock)))
    }

    async fn grant(&self, class: u64) -> Result<Arc<Lease>, Fault> {
        let seconds = i64::try_from(class).unwrap_or(i64::MAX);
        let from = self.clock.now();
        let (id, ttl) = self.ask_for(seconds).await?;
        Ok(Arc::new(Lease::new(id, ttl, from)))
    }

    /// Asks for a lease. One whose answer is lost has no effect on any lock, and expires.
    pub(crate) async fn ask_for(&self, seconds: i64) -> Result<(i64, Duration), Fault> {
        let granted = self
            .link
            .ask_around(seconds, |member, seconds| async move {
                member.client.lease_client().grant(seconds, None).await
            })
            .await;
        match granted {
            Ok(granted) => {
                let seconds = u64::try_from(granted.ttl()).map_err(|_| Fault::garbled())?;
                Ok((granted.id(), Duration::from_secs(seconds)))
            }
            Err(Fault::Unanswered { source, .. }) => Err(Fault::Unsent {
                kind: ErrorKind::Unavailable,
                detail: "no server has granted a lease in time".to_owned(),
                source,
            }),
            Err(fault) => Err(fault),
        }
    }

    /// Proves a lease anew, by a keep-alive and whatever that takes to count.
    pub(crate) async fn refresh(&self, lease: &Lease) -> Result<(), Fault> {
        for _ in 0..TRIES {
            let beat = lease.keep_alive(&self.link, &*self.clock).await?;
            if beat.is_trusted() || beat.counts(self.term().await?) {
                lease.prove(beat.from);
                return Ok(());
            }
        }
        Err(Fault::silence())
    }

    /// Who answers, and in which term: a linearizable read of nothing.
    async fn term(&self) -> Result<Option<Term>, Fault> {
        let read = self
            .link
            .ask_around(self.nowhere.clone(), |member, key| async move {
                let options = GetOptions::new().with_keys_only();
                member.client.kv_client().get(key, Some(options)).await
            });
        Ok(read.await?.header().map(Term::of))
    }

    /// The store does not have this lease any more.
    pub(crate) fn bury(&self, lease: &Arc<Lease>) {
        lease.bury();
        let mut state = self.lock();
        state.current.retain(|_, one| !Arc::ptr_eq(one, lease));
        state.all.retain(|one| !Arc::ptr_eq(one, lease));
        let shortest = state.all.iter().map(|lease| lease.ttl).min();
        drop(state);
        self.link.set_patience(shortest);
    }

    /// Gives all leases back, as far as that succeeds in that time.
    pub(crate) async fn close(&self, within: Duration) {
        let all = {
            let mut state = self.lock();
            state.current.clear();
            std::mem::take(&mut state.all)
        };
        let mut revocations = JoinSet::new();
        for lease in all {
            lease.bury();
            let link = Arc::clone(&self.link);
            revocations.spawn(async move { revoke(&link, lease.id).await });
        }
        let done = async { while revocations.join_next().await.is_some() {} };
        let _ = time::timeout(within, done).await;
    }

    /// Keeps those alive that nobody else does, and gives back what is not used. Runs until the pool
    /// is gone.
    pub(crate) async fn keep(pool: Weak<Self>) {
        while let Some(strong) = pool.upgrade() {
            strong.round().await;
            let (pause, news) = (strong.pause(), Arc::clone(&strong.news));
            drop(strong);
            match pause {
                Some(pause) => {
                    let _ = time::timeout(pause, news.notified()).await;
                }
                None => news.notified().await,
            }
        }
    }

    async fn round(self: &Arc<Self>) {
        let now = self.clock.now();
        let mut due = JoinSet::new();
        let mut unused = Vec::new();
        {
            let mut state = self.lock();
            let State { current, all } = &mut *state;
            all.retain(|lease| {
                let idle = lease
                    .idle_since()
                    .is_some_and(|since| now.since(since) >= IDLE || lease.is_spent());
                if idle {
                    lease.bury();
                    current.retain(|_, one| !Arc::ptr_eq(one, lease));
                    unused.push(lease.id);
                }
                !idle
            });
            for lease in all.iter().filter(|lease| lease.is_ours_to_keep(now)) {
                let (pool, lease) = (Arc::clone(self), Arc::clone(lease));
                due.spawn(async move {
                    if let Err(Fault::LeaseGone) = pool.refresh(&lease).await {
                        pool.bury(&lease);
                    }
                });
            }
        }
        for id in unused {
            let link = Arc::clone(&self.link);
            due.spawn(async move { revoke(&link, id).await });
        }
        while due.join_next().await.is_some() {}
    }

    fn pause(&self) -> Option<Duration> {
        let state = self.lock();
        state.all.iter().map(|lease| lease.ttl / 6).min()
    }

    fn ready(&self, class: u64) -> Option<Seat> {
        let now: Instant = self.clock.now();
        let state = self.lock();
        let lease = state.current.get(&class)?;
        // Taken under the mutex, so that the keeper cannot find it unused meanwhile.
        (lease.is_fresh(now) && !lease.is_spent())
            .then(|| Seat::new(Arc::clone(lease), Arc::clone(&self.clock)))
    }

    /// A place on a lease that was just proved; none if it was given back meanwhile.
    fn take(&self, lease: &Arc<Lease>) -> Option<Seat> {
        // Taken under the mutex, so that the keeper cannot find it unused meanwhile.
        let _state = self.lock();
        (!lease.is_spent()).then(|| Seat::new(Arc::clone(lease), Arc::clone(&self.clock)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn revoke(link: &Link, id: i64) {
    let revoked = link
        .ask_around(id, |member, id| async move {
            member.client.lease_client().revoke(id).await
        })
        .await;
    match revoked {
        Ok(_) | Err(Fault::LeaseGone) => {}
        Err(fault) => tracing::debug!(?fault, "a lease was not given back; it expires"),
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
    use crate::{address::Target, config::Options};

    struct Deaf;

    impl EventHandler for Deaf {
        fn handle(&self, _event: BackendEvent) {}
    }

    #[tokio::test]
    async fn x1_nobody_gets_a_place_on_a_lease_that_is_given_back() {
        let options = Options::default();
        let target = Target::new(&StoreUrl::parse("etcd://127.0.0.1:1").unwrap(), &options);
        let handler: Arc<dyn EventHandler> = Arc::new(Deaf);
        let sink = EventSink::new(Arc::downgrade(&handler));
        let limit = Duration::from_millis(300);
        let link = Link::new(target.unwrap(), options, sink, limit);
        let clock = Arc::new(ManualClock::default());
        let time: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let pool = Arc::new(Pool::new(Arc::new(link), time, String::new()));
        let lease = Arc::new(Lease::new(1, Duration::from_secs(3600), clock.now()));
        pool.lock().all.push(Arc::clone(&lease));
        clock.advance(IDLE * 2);
        let seat = pool.take(&lease);
        assert!(seat.is_some());
        pool.round().await;
        // It was in use.
        assert!(pool.take(&lease).is_some());
        drop(seat);
        clock.advance(IDLE);
        pool.round().await;
        assert!(pool.take(&lease).is_none(), "it is being revoked");
    }
}
