//! An enqueue that is carried out late: the server that has it is stopped, the client goes on with
//! another, removes the attempt there, and the first server goes on.

use std::time::Duration;

use tenure_core::{
    id::AttemptId,
    request::{List, Remove, Removed},
};
use tenure_test_servers::wire::Proxy;
use tokio::time::{sleep, timeout};

use crate::common::{Raw, SOON, TTL, alone, client, cluster, idle, millis, name, proxies, until};

const TRIALS: usize = 200;

/// Of the proxies, the one over which the session for locks goes: the one with the latest `sync`.
fn in_use(proxies: &[Proxy]) -> usize {
    let syncs = |proxy: &Proxy| {
        proxy
            .commands()
            .iter()
            .filter(|command| command.name == "sync")
            .count()
    };
    (0..proxies.len())
        .max_by_key(|index| syncs(&proxies[*index]))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_an_enqueue_that_reaches_its_server_late_makes_nothing() {
    let _alone = alone().await;
    let cluster = cluster();
    let (proxies, url) = proxies(&cluster);
    let looker = client(&cluster.url()).await;
    let raw = Raw::connect(&url).await;
    let mut late = 0;
    let mut removed = 0;
    for trial in 0..TRIALS {
        // A warm session.
        let first = AttemptId::random().unwrap();
        let lock = format!("ghost {}", trial % 7);
        let warm = raw.backend.enqueue(Raw::enqueue("warm", first)).await;
        if warm.is_err() {
            sleep(millis(20)).await;
            continue;
        }
        let gone = Remove::new(name("warm"), first, TTL, true);
        raw.backend.remove(gone).await.unwrap();
        for proxy in &proxies {
            proxy.reset();
        }
        until("the session is alive", SOON, || {
            proxies.iter().any(|proxy| proxy.count("sync") > 0)
        })
        .await;
        let used = in_use(&proxies);
        let stopped = cluster.server(used);
        stopped.pause().unwrap();
        let attempt = AttemptId::random().unwrap();
        // What is sent now lies at a server that does not read it, or not yet at all.
        let patience = Duration::from_millis(1 + (trial as u64 % 4) * 10);
        let call = raw.backend.enqueue(Raw::enqueue(&lock, attempt));
        late += usize::from(timeout(patience, call).await.is_err());
        // Half of the time the server goes on while the removal is under way.
        let overlaps = trial % 2 == 0;
        proxies[used].refuse(true).unwrap();
        proxies[used].cut().unwrap();
        let removal = async {
            for _ in 0..200 {
                let request = Remove::new(name(&lock), attempt, TTL, false);
                match raw.backend.remove(request).await {
                    Ok(Removed::Absent) => return false,
                    Ok(_) => return true,
                    Err(_) => sleep(millis(5)).await,
                }
            }
            panic!("the attempt could not be removed");
        };
        let found = if overlaps {
            let go_on = async {
                sleep(millis(trial as u64 % 60)).await;
                stopped.resume().unwrap();
            };
            tokio::join!(removal, go_on).0
        } else {
            let found = removal.await;
            stopped.resume().unwrap();
            found
        };
        removed += usize::from(found);
        proxies[used].refuse(false).unwrap();
    }
    assert!(late > TRIALS / 2, "only {late} enqueues were late");
    // Whatever comes late has come by then; a session that is alive would keep it for ever.
    sleep(millis(300)).await;
    for lock in 0..7 {
        idle(&looker, &format!("ghost {lock}"), millis(100)).await;
    }
    let all = looker.list(List::new("ghost", 10)).await.unwrap();
    assert!(all.locks.is_empty(), "{all:?}");
    println!(
        "{late} of {TRIALS} late, {removed} found by their removal; {} events",
        raw.events().len()
    );
}
