//! Messages that no client of this project sent.

use tenure_test_servers::{redis::Server, wire::Proxy};

use crate::common::{builder, client, enqueue_waiter, hold, key, seconds};

/// S2, L1: an inbox message that names a waiter's attempt created a guard with whatever TTL the
/// message stated.
#[tokio::test(flavor = "multi_thread")]
async fn s2_forged_grant_is_believed_no_longer_than_the_requested_ttl() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let near = client(&server.url(), seconds(60)).await;
    let held = hold(&near, "x").await;
    let far = builder(&proxy.url())
        .ttl(seconds(2))
        .connect()
        .await
        .unwrap();
    let waiter = enqueue_waiter(&server, &far, "x", 1).await;
    let entry = server.text(&["HGETALL", &key("x", "entries")]).unwrap();
    let mut words = entry.split_whitespace();
    let attempt = words.next().unwrap().to_owned();
    let inbox = words.nth(3).unwrap().to_owned();
    let message = format!("tenure/1 granted {attempt} 5 {} {}", u64::MAX, u64::MAX);
    // The reply to the renewal that would detect the forgery never arrives.
    proxy.hold_requests();
    server
        .command(&["PUBLISH", &format!("tenure:inbox:{inbox}"), &message])
        .unwrap();
    let got = tokio::time::timeout(seconds(1), waiter).await;
    let Ok(Ok(forged)) = got else { return };
    tokio::time::sleep(seconds(4)).await;
    eprintln!("{forged:?} {:?} {:?}", forged.check(), forged.valid_until());
    assert!(
        forged.check().is_err() || held.check().is_err(),
        "x1, s2: two guards, 4 s after a forged grant to a waiter whose TTL is 2 s"
    );
}
