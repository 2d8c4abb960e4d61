//! A slow network, on which a new connection takes longer than a reply.

use tenure_test_servers::{etcd::Server, wire::Proxy};

use crate::common::{driver, millis, name};

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
