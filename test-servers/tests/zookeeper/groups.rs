//! Three servers that are one.

use tenure_test_servers::zookeeper::{Cluster, Server};

use crate::{BOUND, connect, create, exists};

#[tokio::test]
async fn when_the_leader_is_killed_another_is_elected_and_nothing_is_lost() {
    let cluster = Cluster::builder().start().unwrap();
    let addresses: Vec<String> = cluster.servers().iter().map(Server::address).collect();
    let url = format!("zookeeper://{}", addresses.join(","));
    assert_eq!(cluster.url(), url);
    let leader = cluster.leader().unwrap();
    let client = connect(&cluster.server(leader + 1).address()).await;
    create(&client, "/node").await.unwrap();

    cluster.server(leader).kill();
    let next = cluster.leader().unwrap();
    assert_ne!(next, leader);
    cluster.server(leader).restart().unwrap();
    cluster.wait_healthy(BOUND).unwrap();
    let client = connect(&cluster.server(leader).address()).await;
    client.sync("/").await.unwrap();
    assert!(exists(&client, "/node").await);
}

#[tokio::test]
async fn a_cluster_can_be_restarted_and_wiped_and_does_not_serve_without_a_majority() {
    let cluster = Cluster::builder().start().unwrap();
    create(&connect(&cluster.server(0).address()).await, "/node")
        .await
        .unwrap();
    cluster.restart().unwrap();
    let client = connect(&cluster.server(1).address()).await;
    assert!(exists(&client, "/node").await);
    cluster.wipe().unwrap();
    let client = connect(&cluster.server(2).address()).await;
    assert!(!exists(&client, "/node").await);

    let leader = cluster.leader().unwrap();
    cluster.server(leader).kill();
    cluster.server(leader + 1).kill();
    let last = cluster.server(leader + 2);
    crate::until("it does not serve alone", async || {
        last.mode().is_ok_and(|mode| mode.is_none())
    })
    .await;
    last.version().unwrap_err();
    cluster.server(leader).restart().unwrap();
    cluster.server(leader + 1).restart().unwrap();
    cluster.wait_healthy(BOUND).unwrap();
}
