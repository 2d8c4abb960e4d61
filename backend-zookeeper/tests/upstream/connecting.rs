//! Making connections, and resuming a session.

use tenure_test_servers::wire::Proxy;
use tokio::net::TcpListener;
use zookeeper_client::{Client, Error, SessionState};

use crate::{
    common::{SOON, millis, room, server, until},
    fake::{Answer, Fake, TRANSACTION},
};

async fn failure(address: &str) -> Error {
    let connector = Client::connector().with_fail_eagerly();
    connector.connect(address).await.unwrap_err()
}

/// When this fails, the defect is mended upstream, and the driver need not diagnose an unreachable
/// server by itself.
#[tokio::test]
async fn different_failures_to_connect_give_the_same_error() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = closed.local_addr().unwrap().to_string();
    drop(closed);
    let closing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closing.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move { while closing.accept().await.is_ok() {} });
    assert_eq!(failure(&refused).await, Error::NoHosts);
    assert_eq!(failure(&address).await, Error::NoHosts);
    task.abort();
}

const DELETE: i32 = 2;

/// A reply to `delete` that belongs to no request; an empty path for everything else.
fn break_at_delete(operation: i32) -> Answer {
    if operation == DELETE {
        let header = [0, 0, 0, 16, 0, 1, 0, 0];
        return Answer::Raw([&header[..], &[0; 12]].concat());
    }
    Answer::Body(vec![0; 4])
}

/// A server that lags behind this transaction turns away a client that names it.
///
/// When this fails, the defect is mended upstream, and the driver can resume a session without
/// asking first whether the server is up to date.
#[tokio::test]
async fn the_last_transaction_seen_is_named_on_reconnecting_and_not_on_resuming() {
    let server = Fake::start(break_at_delete).await;
    let client = Client::connect(&server.address).await.unwrap();
    client.sync("/").await.unwrap();
    client.delete("/a", None).await.unwrap_err();
    until("a new connection", SOON, || server.handshakes().len() == 2).await;
    let connector = Client::connector().with_session(client.into_session());
    let _client = connector.connect(&server.address).await.unwrap();
    assert_eq!(server.handshakes(), [0, TRANSACTION, 0]);
}

/// When this fails, the defect is mended upstream, and a session can be left to lapse while its
/// client lives.
#[tokio::test(flavor = "multi_thread")]
async fn k1_pings_renew_a_session_that_nobody_renews() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let ttl = millis(1000);
    let connector = Client::connector().with_session_timeout(ttl);
    let client = connector.connect(&proxy.address()).await.unwrap();
    tokio::time::sleep(3 * ttl).await;
    assert_eq!(client.state(), SessionState::SyncConnected);
    let others = proxy.commands().len() - proxy.count("ping");
    assert_eq!((others, proxy.connections_made()), (1, 1), "the handshake");
}
