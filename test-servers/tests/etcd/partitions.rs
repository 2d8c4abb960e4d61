//! Clusters whose links are cut.

use tenure_test_servers::etcd::{Cluster, Server};

use crate::{BOUND, connect, get, until};

fn leads(server: &Server) -> bool {
    server.is_leader().unwrap()
}

#[tokio::test]
async fn isolated_leader_is_replaced_and_follows_afterwards() {
    let cluster = Cluster::builder().links().start().unwrap();
    let links = cluster.links().unwrap();
    let old = cluster.leader().unwrap();
    links.isolate(old);
    let next = cluster.leader_other_than(old).unwrap();
    let mut client = connect(cluster.server(next).address()).await;
    client.put("key", "value", None).await.unwrap();
    until("the old leader gives up", async || {
        !leads(cluster.server(old))
    })
    .await;

    links.heal();
    cluster.wait_healthy(BOUND).unwrap();
    let mut client = connect(cluster.server(old).address()).await;
    assert_eq!(get(&mut client, "key").await.as_deref(), Some("value"));
}

#[tokio::test]
async fn leader_that_is_not_heard_is_replaced() {
    let cluster = Cluster::builder().links().start().unwrap();
    let links = cluster.links().unwrap();
    let old = cluster.leader().unwrap();
    for step in [1, 2] {
        links.cut(old, (old + step) % 3);
    }
    cluster.leader_other_than(old).unwrap();
    // A restarted member is recognized, too.
    cluster.server(old).restart().unwrap();
    cluster.wait_healthy(crate::QUIET).unwrap_err();
    links.heal();
    cluster.wait_healthy(BOUND).unwrap();
}

#[test]
fn cluster_without_relays_has_no_links_to_cut() {
    let cluster = Cluster::builder().start().unwrap();
    let error = cluster.links().unwrap_err().to_string();
    assert!(error.contains("without relays"), "{error}");
}
