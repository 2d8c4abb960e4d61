//! A server that is restarted with another configuration.

use std::fs;

use tenure_core::lease::Phase;
use tenure_test_servers::wire::Proxy;
use tokio::time::Instant;

use crate::common::{SOON, TTL, acquire, client, cluster, granted, hold, room, until, waiting};

#[tokio::test(flavor = "multi_thread")]
async fn x1_d1_a_server_restarted_with_a_shorter_session_time_out() {
    let _room = room().await;
    let cluster = cluster();
    let leader = cluster.leader().unwrap();
    let (first, second) = (cluster.server(leader), cluster.server((leader + 1) % 3));
    let file = second.directory().join("zoo.cfg");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}maxSessionTimeout=500\n")).unwrap();
    second.restart().unwrap();
    cluster.wait_healthy(SOON).unwrap();
    let proxy = Proxy::for_zookeeper(first.address()).unwrap();
    let owner = client(&proxy.url()).await;
    let other = client(&first.url()).await;
    let guard = hold(&owner, "a").await;
    let waiter = acquire(&other, "a");
    waiting(&other, "a", 1).await;
    proxy.set_target(second.address()).unwrap();
    proxy.cut().unwrap();
    let before = guard.valid_until();
    until("it has gone on, or ended", SOON, || {
        guard.check().is_err() || (guard.phase() == Phase::Held && guard.valid_until() > before)
    })
    .await;
    // The owner stops sending heartbeats.
    let silent = Instant::now();
    proxy.hold_requests();
    proxy.hold_replies();
    let next = granted("the waiter", SOON, waiter).await;
    let after = silent.elapsed();
    assert!(
        guard.check().is_err(),
        "two hold it, {after:?} after one fell silent whose TTL is {TTL:?}"
    );
    assert!(next.token() > guard.token());
    proxy.release_requests();
    proxy.release_replies();
}
