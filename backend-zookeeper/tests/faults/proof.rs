//! Which heartbeats count as a proof that a session lives, observed on the wire, and what waits for a proof.

use std::time::Duration;

use tenure_core::{
    Client,
    clock::{Clock as _, Instant, SystemClock},
    lease::DriftBounds,
    settings::StoreUrl,
};
use tenure_test_servers::wire::Proxy;
use tenure_zookeeper::{Options, ZooKeeperStore};
use tokio::time::sleep;

use crate::common::{
    LONG, SOON, TTL, acquire, client, client_for, cluster, granted, hold, millis, name, room,
    server, until,
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

/// After an outage of more than half a TTL the session has no proof that is new enough for a grant, and the
/// next one takes longer than a request.
#[tokio::test(flavor = "multi_thread")]
async fn w1_an_attempt_that_is_first_keeps_its_place_while_its_session_is_not_proved() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let url = StoreUrl::parse(&proxy.url()).unwrap();
    // The heartbeats are 0.6 s apart, so that a new connection proves the session after 1.2 s.
    let options = Options::default().tick(Duration::from_secs(1));
    let owner = Client::builder(ZooKeeperStore::open(&url, options).unwrap())
        .ttl(LONG)
        .request_timeout(millis(800))
        .connect()
        .await
        .unwrap();
    let other = client_for(&server.url(), LONG).await;
    // The parent nodes exist.
    let _ = hold(&other, "a").await.release().await;
    let kept = hold(&owner, "kept").await;
    proxy.refuse(true).unwrap();
    proxy.cut().unwrap();
    until("half a TTL has passed", SOON, || {
        kept.remaining() < LONG * 2 / 5
    })
    .await;
    proxy.refuse(false).unwrap();
    proxy.reset();
    let first = acquire(&owner, "a");
    until("the first enqueue is sent", SOON, || {
        proxy.count("create2") > 0
    })
    .await;
    let (queued, begun) = (name("a"), tokio::time::Instant::now());
    while other.inspect(&queued).await.unwrap().holder.is_none() {
        assert!(begun.elapsed() < SOON, "no attempt is in the queue");
    }
    let later = acquire(&other, "a");
    let first = granted("the first", SOON, first).await;
    assert_eq!(
        proxy.count("create2"),
        1,
        "the first attempt gave up its place"
    );
    let _ = first.release().await;
    let later = granted("the later", SOON, later).await;
    assert!(later.token() > first.token());
    assert!(kept.check().is_ok());
}
