//! One lock that 64 clients share: readers, permits, and readers with a few writers.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tenure_load::Contention;

use crate::{
    implementation::{Failure, Implementation, Tenure, address},
    options::Options,
    results::{Metric, Results, metric},
    store::Store,
};

const ROUNDS: usize = 5;
const SPAN: Duration = Duration::from_secs(1);
const CLIENTS: usize = 64;
/// The permits of one lock, of which each client takes one.
pub(crate) const PERMITS: u32 = 16;

/// What one client does with the lock.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    Reader,
    Writer,
    /// Takes one of [`PERMITS`] permits.
    Permit,
}

/// What all clients do with the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Readers,
    /// Three of the clients write: 5 %.
    Mixed,
    Permits,
}

impl Load {
    pub(crate) const ALL: [Self; 3] = [Self::Readers, Self::Mixed, Self::Permits];

    pub(crate) const fn metric(self) -> Metric {
        match self {
            Self::Readers => metric("one lock, a client for each reader", "pairs/s", "readers"),
            Self::Mixed => metric(
                "one lock, a client for each task, 5 % of them writers",
                "pairs/s",
                "tasks",
            ),
            Self::Permits => metric(
                "one lock with 16 permits, a client for each task",
                "pairs/s",
                "tasks",
            ),
        }
    }

    /// The name of the load for processes of peers.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Readers => "readers",
            Self::Mixed => "mixed",
            Self::Permits => "permits",
        }
    }

    /// What the client with this number does.
    const fn role(self, number: usize) -> Role {
        match self {
            Self::Mixed if number.is_multiple_of(20) && number > 0 => Role::Writer,
            Self::Readers | Self::Mixed => Role::Reader,
            Self::Permits => Role::Permit,
        }
    }
}

/// An implementation of shared and counted locks.
#[async_trait]
pub(crate) trait SharedLocks: Send + Sync {
    /// Returns the name for the results.
    fn name(&self) -> &'static str;

    /// Connects a client that acquires and releases locks in this role.
    async fn connect(&self, url: &str, role: Role) -> Result<Arc<dyn Implementation>, Failure>;
}

/// `tenure` on any store.
pub(crate) struct TenureKinds;

#[async_trait]
impl SharedLocks for TenureKinds {
    fn name(&self) -> &'static str {
        "tenure"
    }

    async fn connect(&self, url: &str, role: Role) -> Result<Arc<dyn Implementation>, Failure> {
        let client = match role {
            Role::Reader => {
                Tenure::connect_for(url, |client, name| Ok(client.rw_lock(name)?.read()))
            }
            Role::Writer => {
                Tenure::connect_for(url, |client, name| Ok(client.rw_lock(name)?.write()))
            }
            Role::Permit => Tenure::connect_for(url, |client, name| {
                client.semaphore(name, PERMITS)?.permits(1)
            }),
        };
        Ok(Arc::new(client.await?))
    }
}

/// Measures each load, for one implementation after the other in each round.
pub(crate) async fn measure(
    name: &str,
    store: &Store,
    options: &Options,
    results: &mut Results,
) -> Result<(), Failure> {
    let mut peers = Vec::new();
    for peer in &store.peers {
        let shared = peer.shared_locks;
        if let Some(shared) = shared.filter(|shared| options.implementation(shared.name)) {
            peers.push((shared, peer.start(address(&store.url)).await?));
        }
    }
    for round in 0..=ROUNDS {
        for load in Load::ALL {
            let lock = format!("kinds-{}", load.name());
            // Round 0 is a warm-up.
            let mut add = |implementation: &str, contention: &Contention| {
                if round > 0 {
                    let value = (contention.pairs, contention.fairness());
                    results.add_contended(name, load.metric(), implementation, CLIENTS, value);
                }
            };
            for shared in &store.shared_locks {
                if options.implementation(shared.name()) {
                    let mut clients = Vec::with_capacity(CLIENTS);
                    for number in 0..CLIENTS {
                        clients.push(shared.connect(&store.url, load.role(number)).await?);
                    }
                    let contention = tenure_load::contended(&clients, &lock, SPAN).await?;
                    for client in clients {
                        client.close().await;
                    }
                    add(shared.name(), &contention);
                }
            }
            for (shared, peer) in &mut peers {
                if shared.loads.contains(&load) {
                    let measured = peer.measure_load(CLIENTS, &lock, SPAN, load).await?;
                    add(shared.name, &measured.contention);
                }
            }
        }
    }
    for (_, peer) in peers {
        peer.close().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_of_the_tasks_write() {
        let roles = |load: Load| (0..CLIENTS).map(move |number| load.role(number));
        let writers = |load| {
            roles(load)
                .filter(|role| matches!(role, Role::Writer))
                .count()
        };
        assert_eq!(writers(Load::Mixed), 3);
        assert_eq!((writers(Load::Readers), writers(Load::Permits)), (0, 0));
    }
}
