//! Three servers that are one.

use tenure_test_servers::etcd::Cluster;

#[test]
fn when_the_leader_is_killed_another_is_elected() {
    let cluster = Cluster::builder().start().unwrap();
    let leader = cluster.leader().unwrap();
    cluster.server(leader).kill();
    let next = cluster.leader().unwrap();
    assert_ne!(next, leader);
    cluster.server(leader).restart().unwrap();
    cluster.wait_healthy(crate::BOUND).unwrap();
}
