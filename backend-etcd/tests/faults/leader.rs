//! A leader that is stopped past the TTL, and goes on.

use tenure_test_servers::etcd::Cluster;
use tokio::time::sleep;

use crate::{
    arena::Arena,
    common::{SOON, acquire, client, granted, hold, proxies, seconds, until_waiting},
};

const TTL: std::time::Duration = seconds(2);

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_w2_a_leader_is_stopped_past_the_ttl_and_goes_on() {
    let cluster = Cluster::builder().start().unwrap();
    let arena = Arena::open(&cluster.url(), 3, TTL).await;
    for _ in 0..2 {
        let leader = cluster.leader().unwrap();
        cluster.server(leader).pause().unwrap();
        arena
            .until_all_had_turns("it is stopped", 2, arena.bound(TTL))
            .await;
        sleep(TTL * 2).await;
        cluster.server(leader).resume().unwrap();
        arena
            .until_all_had_turns("it goes on", 2, arena.bound(TTL))
            .await;
    }
    arena.close().await;
}

/// Servers of that age answer keep-alives also when they lead no more. The holder reaches nobody but
/// the leader, which is cut off from the others by being stopped; when it goes on, it answers what was
/// sent to it meanwhile before it has heard of its successor.
#[tokio::test(flavor = "multi_thread")]
async fn x1_d2_what_a_deposed_leader_answers_is_no_proof() {
    let cluster = Cluster::builder().start().unwrap();
    for _ in 0..3 {
        let leader = cluster.leader().unwrap();
        let (proxies, _) = proxies(&cluster);
        let holder = client(&proxies[leader].url(), TTL).await;
        let others: Vec<_> = (1..3)
            .map(|step| cluster.server(leader + step).address())
            .collect();
        let other = client(&format!("etcd://{}", others.join(",")), TTL).await;
        let guard = hold(&holder, "a").await;
        let waiter = acquire(&other, "a");
        until_waiting(&other, "a", 1).await;
        cluster.server(leader).pause().unwrap();
        // By the time that the waiter holds, the stopped leader has renewals in its socket.
        let next = granted(
            "the lease has expired under another leader",
            SOON * 2,
            waiter,
        )
        .await;
        assert!(guard.check().is_err(), "X1: two guards are held");
        let before = guard.valid_until();
        cluster.server(leader).resume().unwrap();
        sleep(TTL).await;
        assert_eq!(
            guard.valid_until(),
            before,
            "D2: a deposed leader has moved the deadline"
        );
        // The next one need not hold any more: a leader of that age that goes on may have its
        // successor revoke leases which it believes to have expired (etcd issue 15247). Then it has
        // been told.
        assert!(guard.check().is_err());
        assert!(next.token() > guard.token());
        let _ = next.release().await;
    }
}
