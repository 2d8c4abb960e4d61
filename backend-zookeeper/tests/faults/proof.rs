//! Which heartbeats count as a proof that a session lives, observed on the wire.

use tenure_core::{
    clock::{Clock as _, Instant, SystemClock},
    lease::DriftBounds,
};
use tenure_test_servers::wire::Proxy;
use tokio::time::sleep;

use crate::common::{
    LONG, SOON, TTL, client, client_for, cluster, hold, millis, room, server, until,
};

/// The times of the heartbeats since the last reset, on the connection that had most of them.
fn heartbeats(proxy: &Proxy) -> Vec<Instant> {
    let commands = proxy.commands();
    // The first request on a new connection counts as a heartbeat: it reaches the leader too.
    let is_first = |name: &str, path: &str| name == "delete" && path.starts_with("/zookeeper/");
    let beats = commands
        .iter()
        .filter(|command| command.name == "sync" || is_first(&command.name, &command.argument(0)));
    let mut by_connection: Vec<(u64, Vec<Instant>)> = Vec::new();
    for beat in beats {
        match by_connection
            .iter_mut()
            .find(|(connection, _)| *connection == beat.connection)
        {
            Some((_, times)) => times.push(beat.at),
            None => by_connection.push((beat.connection, vec![beat.at])),
        }
    }
    let times = by_connection.into_iter().map(|(_, times)| times);
    times.max_by_key(Vec::len).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn d1_a_new_connection_proves_nothing_before_its_third_heartbeat() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = client_for(&proxy.url(), LONG).await;
    let guard = hold(&owner, "a").await;
    for round in 0..3 {
        proxy.reset();
        proxy.cut().unwrap();
        let before = guard.valid_until();
        until("it is proved", SOON, || guard.valid_until() > before).await;
        let end = guard.valid_until();
        let beats = heartbeats(&proxy);
        // One more may be under way; no heartbeat before the cut counts.
        let first = beats.len().checked_sub(3).map(|at| beats[at]);
        assert!(
            first.is_some_and(|first| end <= DriftBounds::DEFAULT.deadline(first, LONG)),
            "round {round}: after heartbeats at {beats:?} it is held until {end:?}"
        );
    }
}

/// A follower answers reads by itself until it notices that its leader is silent: for `syncLimit`,
/// which is 1.5 s here.
#[tokio::test(flavor = "multi_thread")]
async fn d2_x1_a_follower_proves_nothing_while_its_leader_is_stopped() {
    const BEFORE_ANOTHER_IS_ELECTED: u64 = 1400;
    let _room = room().await;
    let cluster = cluster();
    for round in 0..5 {
        cluster.wait_healthy(SOON).unwrap();
        let leader = cluster.leader().unwrap();
        let owner = client(&cluster.server(leader + 1).url()).await;
        // The lock of the previous round may still be held.
        let guard = hold(&owner, &format!("a{round}")).await;
        let before = guard.valid_until();
        until("it is proved", SOON, || guard.valid_until() > before).await;
        let stopping = SystemClock.now();
        cluster.server(leader).pause().unwrap();
        let stopped = SystemClock.now();
        sleep(millis(BEFORE_ANOTHER_IS_ELECTED - 100)).await;
        let end = guard.valid_until();
        let in_time = SystemClock.now().since(stopping) < millis(BEFORE_ANOTHER_IS_ELECTED);
        cluster.server(leader).resume().unwrap();
        // Otherwise the machine was so slow that another server may lead.
        if in_time {
            let limit = DriftBounds::DEFAULT.deadline(stopped, TTL);
            assert!(end <= limit, "proved {:?} too long", end.since(limit));
            return;
        }
    }
    panic!("the machine is too busy to show anything");
}
