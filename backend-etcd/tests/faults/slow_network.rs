//! A slow network, on which a new connection takes longer than a reply.

use std::sync::Arc;

use tenure_test_servers::{etcd::Server, wire::Proxy};

use crate::common::{WAIT_LIMIT, driver, driver_within, millis, name, seconds, wait_until};

/// The failover timeout is one second. Replies take that long at times: after the first of them the
/// client has learned it, and a reply in between that takes somewhat less is no reason to forget it.
#[tokio::test(flavor = "multi_thread")]
async fn l5_replies_about_the_failover_timeout_keep_the_connection() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let backend = driver(&proxy.url()).await;
    let inspect_in = async |delay| {
        proxy.delay_replies(millis(delay));
        backend.inspect(&name("a")).await.unwrap();
        proxy.connections_made()
    };
    let first = proxy.connections_made();
    let learned = inspect_in(1_200).await;
    assert!(first < learned, "the first late reply was not noticed");
    for delay in [700, 1_200, 700, 1_200] {
        assert_eq!(inspect_in(delay).await, learned, "after {delay} ms");
    }
    backend.close().await;
}

/// The client has learned that the network is slow, and waits for a second. One reply that is later does
/// not cost the connection; two in a row do.
#[tokio::test(flavor = "multi_thread")]
async fn l5_one_late_reply_on_a_slow_network_keeps_the_connection() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let backend = driver_within(&proxy.url(), seconds(1)).await;
    // The failover timeout is a third of a second at first. On a busy machine, the reply that teaches the
    // client another one may not be the first.
    proxy.delay_replies(millis(600));
    let mut learned = 0;
    while learned < proxy.connections_made() {
        learned = proxy.connections_made();
        backend.inspect(&name("a")).await.unwrap();
    }
    // The reply is held, and the request is repeated after a second.
    let asked = proxy.count("Range");
    proxy.hold_replies();
    let reader = Arc::clone(&backend);
    let read = tokio::spawn(async move { reader.inspect(&name("a")).await });
    let repeated = || proxy.count("Range") > asked + 1;
    wait_until("it asks again", WAIT_LIMIT, repeated).await;
    assert_eq!(proxy.connections_made(), learned, "after one late reply");
    // The second reply is late, too.
    let changed = || proxy.connections_made() > learned;
    wait_until("another connection", WAIT_LIMIT, changed).await;
    proxy.release_replies();
    let _ = read.await.unwrap();
    backend.close().await;
}
