//! Clusters of three servers.

use std::time::Duration;

use tenure_test_servers::zookeeper::{Cluster, Server};
use tokio::task::{JoinSet, block_in_place};

use crate::{BOUND, connect, create, exists};

#[tokio::test]
async fn killed_leader_is_replaced_without_loss() {
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
async fn cluster_can_be_restarted_and_wiped_and_does_not_serve_without_a_majority() {
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

#[tokio::test(flavor = "multi_thread")]
async fn stalled_leader_differs_from_an_idle_or_busy_one() {
    let cluster = Cluster::builder().start().unwrap();
    let leader = cluster.leader().unwrap();
    // Less than `syncLimit`, after which the leader gives up.
    let stands_still = || block_in_place(|| cluster.stands_still(Duration::from_millis(300)));
    assert!(!stands_still().unwrap(), "the leader is idle");
    let client = connect(&cluster.server(leader).address()).await;
    // Enough clients so that there are always requests in flight.
    let mut busy = JoinSet::new();
    for worker in 0..64 {
        let client = client.clone();
        busy.spawn(async move {
            for node in 0.. {
                let path = format!("/busy-{worker}-{node}");
                if create(&client, &path).await.is_err() {
                    return;
                }
            }
        });
    }
    assert!(!stands_still().unwrap(), "what is asked for is carried out");
    for follower in [leader + 1, leader + 2] {
        cluster.server(follower).pause().unwrap();
    }
    assert!(stands_still().unwrap(), "no follower acknowledges");
}
