//! Clusters whose links are cut.

use tenure_test_servers::zookeeper::{Cluster, Server};

use crate::{BOUND, connect, create, exists, until};

#[tokio::test]
async fn isolated_leader_is_replaced_and_follows_afterwards() {
    let cluster = Cluster::builder().links().start().unwrap();
    let links = cluster.links().unwrap();
    let old = cluster.leader().unwrap();
    links.isolate(old);
    let next = cluster.leader_other_than(old).unwrap();
    let client = connect(&cluster.server(next).address()).await;
    create(&client, "/node").await.unwrap();
    until("the old leader gives up", async || {
        cluster.server(old).mode().unwrap().is_none()
    })
    .await;

    links.heal();
    cluster.wait_healthy(BOUND).unwrap();
    assert_eq!(cluster.leader().unwrap(), next);
    let client = connect(&cluster.server(old).address()).await;
    client.sync("/").await.unwrap();
    assert!(exists(&client, "/node").await);
}

#[tokio::test]
async fn leader_that_hears_nothing_is_replaced() {
    // The others still hear its votes and elect it. They wait for it for `initLimit` in ticks of 100 ms.
    let members = Server::builder().config("initLimit", "30");
    let cluster = Cluster::builder().members(members).links();
    let cluster = cluster.start().unwrap();
    let links = cluster.links().unwrap();
    let old = cluster.leader().unwrap();
    for step in [1, 2] {
        links.cut((old + step) % 3, old);
    }
    cluster.leader_other_than(old).unwrap();
    // A restarted member is recognized, too.
    cluster.server(old).restart().unwrap();
    cluster.wait_healthy(crate::QUIET).unwrap_err();
    links.heal();
    cluster.wait_healthy(BOUND).unwrap();
}
