//! A late enqueue: its request is held on the way to one server, the client continues with another
//! server and removes the attempt there, and then the request arrives.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    id::AttemptId,
    request::{Remove, Removed},
};
use tenure_test_servers::{wire::Proxy, zookeeper::Cluster};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::common::{Raw, SOON, TTL, client, cluster, idle, millis, name, room, until};

/// Clients that run side by side, because each spends its time waiting.
const LANES: usize = 4;
const TRIALS: usize = 40;
/// How many enqueues wait for a majority.
const MAJORITIES: usize = 5;
/// Enqueues before them, which show that a late request is carried out at all.
const CONTROLS: usize = 2;

/// Two proxies in front of each member. A request that is held at the second one reaches the member
/// although the client was cut off at the first one.
struct Ways {
    fronts: Vec<Proxy>,
    slow: Vec<Proxy>,
}

impl Ways {
    fn to(cluster: &Cluster) -> Self {
        let slow: Vec<Proxy> = cluster
            .servers()
            .iter()
            .map(|server| Proxy::for_zookeeper(server.address()).unwrap())
            .collect();
        let fronts = slow
            .iter()
            .map(|slow| Proxy::for_zookeeper(slow.address()).unwrap())
            .collect();
        Self { fronts, slow }
    }

    fn url(&self) -> String {
        let addresses: Vec<String> = self.fronts.iter().map(Proxy::address).collect();
        format!("zookeeper://{}", addresses.join(","))
    }

    /// The path of the session for locks. A session that nobody uses gives up its connection, so it is
    /// used until it has a path.
    async fn in_use(&self, raw: &Raw, lock: &str) -> usize {
        for front in &self.fronts {
            front.reset();
        }
        let begun = Instant::now();
        while !self.fronts.iter().any(|front| front.count("sync") > 2) {
            assert!(begun.elapsed() < SOON, "no session within {SOON:?}");
            warm(raw, lock).await;
            sleep(millis(20)).await;
        }
        let syncs = |at: &usize| self.fronts[*at].count("sync");
        (0..self.fronts.len()).max_by_key(syncs).unwrap()
    }

    fn refuse(&self, refuse: bool) {
        for front in &self.fronts {
            front.refuse(refuse).unwrap();
        }
    }

    /// Holds an enqueue on its path and cuts the client off from that path. With `goes_on` the client
    /// can use the other paths. Returns the path and the attempt.
    async fn delay(&self, raw: &Raw, lock: &str, goes_on: bool) -> (usize, AttemptId) {
        for _ in 0..100 {
            // After the end of a session the next one needs a path.
            self.refuse(false);
            let used = self.in_use(raw, lock).await;
            self.refuse(!goes_on);
            self.slow[used].reset();
            self.slow[used].hold_requests();
            let attempt = AttemptId::random().unwrap();
            let lies_there = until("the enqueue is on its way", SOON, || {
                self.slow[used].count("create2") > 0
            });
            tokio::select! {
                biased;
                () = lies_there => {
                    self.fronts[used].refuse(true).unwrap();
                    self.fronts[used].cut().unwrap();
                    return (used, attempt);
                }
                // The session has moved to another path meanwhile.
                _ = raw.backend.enqueue(Raw::enqueue(lock, attempt)) => {}
            }
            self.slow[used].release_requests();
            self.refuse(false);
            remove(raw, lock, attempt).await;
        }
        panic!("no enqueue could be held up");
    }
}

/// Removes an attempt whose enqueue was not answered. Returns whether it was found.
async fn remove(raw: &Raw, lock: &str, attempt: AttemptId) -> bool {
    for _ in 0..500 {
        let request = Remove::new(name(lock), attempt, TTL, false);
        match raw.backend.remove(request).await {
            Ok(Removed::Absent) => return false,
            Ok(_) => return true,
            Err(_) => sleep(millis(5)).await,
        }
    }
    panic!("the attempt could not be removed");
}

/// Opens the session and creates the lock's node.
async fn warm(raw: &Raw, lock: &str) {
    for _ in 0..200 {
        let attempt = AttemptId::random().unwrap();
        if raw
            .backend
            .enqueue(Raw::enqueue(lock, attempt))
            .await
            .is_ok()
        {
            let request = Remove::new(name(lock), attempt, TTL, true);
            if raw.backend.remove(request).await.is_ok() {
                return;
            }
        }
        remove(raw, lock, attempt).await;
    }
    panic!("no session");
}

/// One client with paths and locks of its own. Returns how many late enqueues their removals found.
async fn lane(cluster: &Cluster, lane: usize) -> usize {
    let ways = Ways::to(cluster);
    let looker = client(&cluster.url()).await;
    let raw = Raw::connect(&ways.url()).await;
    let control = format!("control {lane}");
    let mut carried_out = 0;
    for trial in 0.. {
        assert!(
            trial < 10 * CONTROLS,
            "what is late is not carried out; this test shows nothing"
        );
        warm(&raw, &control).await;
        // Without another path the late request is carried out.
        let (used, attempt) = ways.delay(&raw, &control, false).await;
        ways.slow[used].release_requests();
        let seen = async {
            while looker
                .inspect(&name(&control))
                .await
                .is_ok_and(|state| state.holder.is_none())
            {
                sleep(millis(2)).await;
            }
        };
        // Except on a machine so slow that the session had ended.
        let seen = timeout(2 * TTL, seen).await.is_ok();
        ways.refuse(false);
        remove(&raw, &control, attempt).await;
        idle(&looker, &control, SOON).await;
        carried_out += usize::from(seen);
        if carried_out == CONTROLS {
            break;
        }
    }
    let mut found = 0;
    let lock = |trial: usize| format!("ghost {lane} {}", trial % 3);
    for trial in 0..TRIALS {
        let lock = lock(trial);
        warm(&raw, &lock).await;
        let (used, attempt) = ways.delay(&raw, &lock, true).await;
        if trial % 2 == 0 {
            found += usize::from(remove(&raw, &lock, attempt).await);
            ways.slow[used].release_requests();
        } else {
            // The request arrives during the removal.
            let arrives = async {
                sleep(Duration::from_millis(trial as u64 % 30)).await;
                ways.slow[used].release_requests();
            };
            found += usize::from(tokio::join!(remove(&raw, &lock, attempt), arrives).0);
        }
        ways.fronts[used].refuse(false).unwrap();
    }
    // The late request has arrived, and the session, which lives, would keep its node.
    sleep(millis(500)).await;
    for trial in 0..3 {
        idle(&looker, &lock(trial), SOON).await;
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_an_enqueue_that_arrives_after_its_removal_creates_nothing() {
    let _room = room().await;
    let cluster = Arc::new(cluster());
    let mut lanes = JoinSet::new();
    for number in 0..LANES {
        let cluster = Arc::clone(&cluster);
        lanes.spawn(async move { lane(&cluster, number).await });
    }
    let found: usize = lanes.join_all().await.into_iter().sum();
    let all = LANES * TRIALS;
    println!("{found} of {all} came in time to be found by their removal");
}

/// The leader has accepted the request and waits for a majority; the client continues with a follower.
#[tokio::test(flavor = "multi_thread")]
async fn a4_an_enqueue_that_waits_for_its_majority_is_found_by_its_removal() {
    let _room = room().await;
    let cluster = cluster();
    let ways = Ways::to(&cluster);
    let looker = client(&cluster.url()).await;
    let raw = Raw::connect(&ways.url()).await;
    let mut found = 0;
    for _ in 0..MAJORITIES {
        cluster.wait_healthy(SOON).unwrap();
        let leader = cluster.leader().unwrap();
        let (next, last) = ((leader + 1) % 3, (leader + 2) % 3);
        for follower in [next, last] {
            ways.fronts[follower].refuse(true).unwrap();
            ways.fronts[follower].cut().unwrap();
        }
        warm(&raw, "ghost").await;
        let attempt = AttemptId::random().unwrap();
        for follower in [next, last] {
            cluster.server(follower).pause().unwrap();
        }
        ways.fronts[leader].reset();
        let sent = until("it is sent", SOON, || {
            ways.fronts[leader].count("create2") > 0
        });
        tokio::select! {
            biased;
            () = sent => {}
            _ = raw.backend.enqueue(Raw::enqueue("ghost", attempt)) => {}
        }
        sleep(millis(20)).await;
        ways.fronts[next].refuse(false).unwrap();
        ways.fronts[leader].refuse(true).unwrap();
        ways.fronts[leader].cut().unwrap();
        cluster.server(next).resume().unwrap();
        found += usize::from(remove(&raw, "ghost", attempt).await);
        cluster.server(last).resume().unwrap();
        for front in &ways.fronts {
            front.refuse(false).unwrap();
        }
    }
    idle(&looker, "ghost", SOON).await;
    assert!(found > 0, "none waited for its majority");
    println!("{found} of {MAJORITIES} were found by their removal");
}
