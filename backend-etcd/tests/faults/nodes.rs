//! Members that are killed and come back.

use tenure_test_servers::etcd::Cluster;
use tokio::time::sleep;

use crate::{arena::Arena, common::seconds};

const TTL: std::time::Duration = seconds(2);

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_w2_a_follower_is_killed_and_comes_back() {
    let cluster = Cluster::builder().start().unwrap();
    let arena = Arena::open(&cluster.url(), 3, TTL).await;
    let follower = cluster.leader().unwrap() + 1;
    cluster.server(follower).kill();
    arena
        .until_all_had_turns("one is down", 2, arena.bound(TTL))
        .await;
    cluster.server(follower).restart().unwrap();
    arena
        .until_all_had_turns("it is back", 2, arena.bound(TTL))
        .await;
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_w2_the_leader_is_killed_and_comes_back() {
    let cluster = Cluster::builder().start().unwrap();
    let arena = Arena::open(&cluster.url(), 3, TTL).await;
    for _ in 0..2 {
        let leader = cluster.leader().unwrap();
        cluster.server(leader).kill();
        arena
            .until_all_had_turns("the leader is down", 2, arena.bound(TTL))
            .await;
        cluster.server(leader).restart().unwrap();
        arena
            .until_all_had_turns("it is back", 2, arena.bound(TTL))
            .await;
    }
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_l1_two_are_killed_and_come_back() {
    let cluster = Cluster::builder().start().unwrap();
    let arena = Arena::open(&cluster.url(), 3, TTL).await;
    let leader = cluster.leader().unwrap();
    cluster.server(leader).kill();
    cluster.server(leader + 1).kill();
    sleep(TTL * 2).await;
    let without = arena.turns();
    sleep(TTL).await;
    assert_eq!(
        arena.turns(),
        without,
        "there is no majority, and the lock is granted"
    );
    cluster.server(leader).restart().unwrap();
    cluster.server(leader + 1).restart().unwrap();
    arena
        .until_all_had_turns("they are back", 2, arena.bound(TTL))
        .await;
    arena.close().await;
}
