//! Round trips: the duration of lock operations on a connection that delays each reply.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tenure_core::clock::{Clock, SystemClock};
use tenure_load::{Contention, Percentiles};

use crate::{
    delay_proxy::DelayProxy,
    implementation::{Failure, Implementation},
    measure::connect_clients,
    options::Options,
    peer::PeerProcess,
    results::{Metric, Results, metric},
    store::Store,
};

/// The delay of each reply, and of each message that the server sends on its own.
const DELAY: Duration = Duration::from_millis(5);
const ROUNDS: usize = 3;
/// Pairs of acquire and release in each round without contention.
const PAIRS: usize = 20;
const SPAN: Duration = Duration::from_secs(1);
/// With fewer waiters, the lock may be free at its release, because the next requests are still on
/// their way.
const WAITERS: usize = 4;

const ACQUIRE: Metric = metric("5 ms of delay: acquire a free lock", "ms", "");
const RELEASE: Metric = metric("5 ms of delay: release", "ms", "");
const PAIR: Metric = metric("5 ms of delay: acquire + release, uncontended", "ms", "");
const HAND_OVER: Metric = metric(
    "5 ms of delay: hand-over to one of 4 waiters with a client each",
    "ms",
    "",
);

/// The connected clients of an implementation, or the process of a peer.
enum Clients {
    InProcess(&'static str, Vec<Arc<dyn Implementation>>),
    Peer(Box<PeerProcess>),
}

/// Measures all implementations that can connect to a URL, in alternating rounds.
pub(crate) async fn delay(
    name: &str,
    store: &Store,
    options: &Options,
    results: &mut Results,
) -> Result<(), Failure> {
    let Some((scheme, server)) = store.url.split_once("://") else {
        return Ok(());
    };
    let proxy = DelayProxy::start(server, DELAY).await?;
    let url = format!("{scheme}://{}", proxy.address);
    let mut all = Vec::new();
    for implementation in &store.implementations {
        if options.implementation(implementation.name())
            && let Some(clients) = connect_clients(implementation, &url, WAITERS).await?
        {
            all.push(Clients::InProcess(implementation.name(), clients));
        }
    }
    let peers = store.peers.iter();
    for peer in peers.filter(|peer| options.implementation(peer.name)) {
        let process = peer.start(&proxy.address).await?;
        all.push(Clients::Peer(Box::new(process)));
    }
    for round in 0..=ROUNDS {
        for clients in &mut all {
            let (implementation, measured) = clients.measure().await?;
            // Round 0 is a warm-up.
            if round > 0 {
                measured.add(name, implementation, results);
            }
        }
    }
    for clients in all {
        clients.close().await?;
    }
    Ok(())
}

/// The results of one round.
struct Measured {
    acquires: Percentiles,
    releases: Percentiles,
    pairs: Percentiles,
    contention: Option<Contention>,
}

impl Measured {
    fn add(&self, store: &str, implementation: &str, results: &mut Results) {
        let millis = |measured: &Percentiles| measured.median().as_secs_f64() * 1e3;
        for (metric, measured) in [
            (ACQUIRE, &self.acquires),
            (RELEASE, &self.releases),
            (PAIR, &self.pairs),
        ] {
            results.add(store, metric, implementation, 1, millis(measured));
        }
        if let Some(contention) = &self.contention {
            let value = (millis(&contention.hand_over), contention.fairness());
            results.add_contended(store, HAND_OVER, implementation, 1, value);
        }
    }
}

impl Clients {
    async fn measure(&mut self) -> Result<(&'static str, Measured), Failure> {
        match self {
            Self::InProcess(name, clients) => Ok((name, measure(clients).await?)),
            Self::Peer(peer) => {
                let uncontended = peer.measure(1, "uncontended", SPAN / 2).await?;
                let contended = peer.measure(WAITERS, "contended", SPAN).await?;
                let measured = Measured {
                    acquires: uncontended.acquires,
                    releases: uncontended.releases,
                    pairs: uncontended.contention.waits,
                    contention: Some(contended.contention),
                };
                Ok((peer.name, measured))
            }
        }
    }

    async fn close(self) -> Result<(), Failure> {
        match self {
            Self::InProcess(_, clients) => {
                for client in clients {
                    client.close().await;
                }
                Ok(())
            }
            Self::Peer(peer) => peer.close().await,
        }
    }
}

async fn measure(clients: &[Arc<dyn Implementation>]) -> Result<Measured, Failure> {
    let (mut acquires, mut releases, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    let Some(first) = clients.first() else {
        return Err("no clients".into());
    };
    // The first pair is not counted, because it may create an entry in the store.
    first.acquire_and_release("uncontended", &|| ()).await?;
    for _ in 0..PAIRS {
        let begin = SystemClock.now();
        let granted = Mutex::new(begin);
        let held = || *granted.lock().unwrap_or_else(PoisonError::into_inner) = SystemClock.now();
        first.acquire_and_release("uncontended", &held).await?;
        let end = SystemClock.now();
        let granted = granted.into_inner().unwrap_or_else(PoisonError::into_inner);
        acquires.push(granted.since(begin));
        releases.push(end.since(granted));
        pairs.push(end.since(begin));
    }
    let contention = if first.waits() {
        Some(tenure_load::contended(clients, "contended", SPAN).await?)
    } else {
        None
    };
    Ok(Measured {
        acquires: Percentiles::new(acquires),
        releases: Percentiles::new(releases),
        pairs: Percentiles::new(pairs),
        contention,
    })
}
