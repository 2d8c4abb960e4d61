//! Members that are killed and restarted.

use tenure_test_servers::etcd::Cluster;
use tokio::time::sleep;

use crate::{common::seconds, contention::Contention};

const TTL: std::time::Duration = seconds(2);

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_w2_follower_is_killed_and_restarted() {
    let cluster = Cluster::builder().start().unwrap();
    let contention = Contention::start(&cluster.url(), 3, TTL).await;
    let follower = cluster.leader().unwrap() + 1;
    cluster.server(follower).kill();
    contention
        .wait_until_all_held("a follower is down", 2, contention.time_limit(TTL))
        .await;
    cluster.server(follower).restart().unwrap();
    contention
        .wait_until_all_held("the member is back", 2, contention.time_limit(TTL))
        .await;
    contention.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_w2_leader_is_killed_and_restarted() {
    let cluster = Cluster::builder().start().unwrap();
    let contention = Contention::start(&cluster.url(), 3, TTL).await;
    for _ in 0..2 {
        let leader = cluster.leader().unwrap();
        cluster.server(leader).kill();
        contention
            .wait_until_all_held("the leader is down", 2, contention.time_limit(TTL))
            .await;
        cluster.server(leader).restart().unwrap();
        contention
            .wait_until_all_held("the member is back", 2, contention.time_limit(TTL))
            .await;
    }
    contention.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_l1_majority_is_killed_and_restarted() {
    let cluster = Cluster::builder().start().unwrap();
    let contention = Contention::start(&cluster.url(), 3, TTL).await;
    let leader = cluster.leader().unwrap();
    cluster.server(leader).kill();
    cluster.server(leader + 1).kill();
    sleep(TTL * 2).await;
    let without = contention.holds();
    sleep(TTL).await;
    assert_eq!(
        contention.holds(),
        without,
        "the lock was granted without a majority"
    );
    cluster.server(leader).restart().unwrap();
    cluster.server(leader + 1).restart().unwrap();
    contention
        .wait_until_all_held("the members are back", 2, contention.time_limit(TTL))
        .await;
    contention.finish().await;
}
