//! Clusters of three servers.

use tenure_test_servers::etcd::{Cluster, Server};

use crate::{BOUND, connect, get};

#[tokio::test]
async fn killed_leader_is_replaced_without_loss() {
    let cluster = Cluster::builder().start().unwrap();
    let addresses: Vec<String> = cluster.servers().iter().map(Server::address).collect();
    assert_eq!(cluster.url(), format!("etcd://{}", addresses.join(",")));
    let leader = cluster.leader().unwrap();
    let mut client = connect(cluster.server(leader + 1).address()).await;
    client.put("key", "value", None).await.unwrap();

    cluster.server(leader).kill();
    let next = cluster.leader().unwrap();
    assert_ne!(next, leader);
    cluster.server(leader).restart().unwrap();
    cluster.wait_healthy(BOUND).unwrap();
    let mut client = connect(cluster.server(leader).address()).await;
    assert_eq!(get(&mut client, "key").await.as_deref(), Some("value"));
}

#[tokio::test]
async fn cluster_can_be_restarted_and_wiped_and_has_no_leader_without_a_majority() {
    let cluster = Cluster::builder().start().unwrap();
    let mut client = connect(cluster.server(0).address()).await;
    client.put("key", "value", None).await.unwrap();
    cluster.restart().unwrap();
    let mut client = connect(cluster.server(1).address()).await;
    assert_eq!(get(&mut client, "key").await.as_deref(), Some("value"));

    let refused = cluster.server(0).wipe().unwrap_err().to_string();
    assert!(refused.contains("wipe the cluster"), "{refused}");
    cluster.wipe().unwrap();
    let mut client = connect(cluster.server(2).address()).await;
    assert_eq!(get(&mut client, "key").await, None);

    let leader = cluster.leader().unwrap();
    cluster.server(leader).pause().unwrap();
    assert_ne!(cluster.leader().unwrap(), leader);
    cluster.server(leader + 1).kill();
    cluster.wait_healthy(crate::QUIET).unwrap_err();
    cluster.server(leader).resume().unwrap();
    cluster.server(leader + 1).restart().unwrap();
    cluster.wait_healthy(BOUND).unwrap();
}
