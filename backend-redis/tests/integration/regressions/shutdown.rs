//! The state that a client leaves behind.

use tenure_core::Client;
use tenure_redis::Options;
use tenure_test_servers::redis::Server;

use crate::common::{OPERATION_TIMEOUT, enqueue_waiter, hold, seconds, store, wait_until};

/// R5: no connection of a client stays open after it is shut down or dropped, with replicas as
/// well.
#[tokio::test(flavor = "multi_thread")]
async fn r5_shutdown_closes_every_connection() {
    let master = Server::builder().start().unwrap();
    let replica = Server::builder().replica_of(&master).start().unwrap();
    replica.wait_until_in_step(&master).unwrap();
    let count = || {
        let list = master.text(&["CLIENT", "LIST", "TYPE", "NORMAL"]).unwrap();
        let pubsub = master.text(&["CLIENT", "LIST", "TYPE", "PUBSUB"]).unwrap();
        list.lines().count() + pubsub.lines().count()
    };
    let before = count();
    let mut kept = Vec::new();
    for round in 0..4 {
        let options = Options::default().replicas(1, seconds(2));
        let client = Client::builder(store(&master.url(), options));
        let client = client.ttl(seconds(10)).connect().await.unwrap();
        let guard = hold(&client, "a").await;
        let waiter = enqueue_waiter(&master, &client, "a", 1).await;
        if round % 2 == 0 {
            let report = client.shutdown(seconds(5)).await;
            assert!(report.unreleased.is_empty());
            kept.push((client, guard));
            let _ = waiter.await;
        } else {
            waiter.abort();
            drop(guard);
            drop(client);
        }
        wait_until("all connections are closed", OPERATION_TIMEOUT, || {
            count() <= before
        })
        .await;
    }
}
