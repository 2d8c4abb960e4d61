//! A leader that is stopped past the TTL, and goes on.

use tenure_core::clock::{Clock as _, SystemClock};
use tenure_test_servers::etcd::Cluster;
use tokio::time::{sleep, timeout};

use crate::{
    common::{
        WAIT_LIMIT, acquire_free, client, expect_granted, seconds, spawn_acquire, wait_for_waiters,
        wait_until_free,
    },
    contention::Contention,
};

const TTL: std::time::Duration = seconds(2);

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_w2_a_leader_is_stopped_past_the_ttl_and_goes_on() {
    let cluster = Cluster::builder().start().unwrap();
    let contention = Contention::start(&cluster.url(), 3, TTL).await;
    for _ in 0..2 {
        let leader = cluster.leader().unwrap();
        cluster.server(leader).pause().unwrap();
        contention
            .wait_until_all_held("it is stopped", 2, contention.time_limit(TTL))
            .await;
        sleep(TTL * 2).await;
        cluster.server(leader).resume().unwrap();
        contention
            .wait_until_all_held("it goes on", 2, contention.time_limit(TTL))
            .await;
    }
    contention.finish().await;
}

/// The holder reaches nobody but the leader, which is cut off from the others by being stopped; when it
/// goes on, it answers what was sent to it meanwhile before it has heard of its successor.
#[tokio::test(flavor = "multi_thread")]
async fn x1_a_leader_that_was_deposed_while_it_was_stopped_gives_no_second_holder() {
    let cluster = Cluster::builder().start().unwrap();
    for _ in 0..3 {
        let leader = cluster.leader().unwrap();
        let holder = client(&cluster.server(leader).url(), TTL).await;
        let other = client(&followers(&cluster, leader), TTL).await;
        let guard = acquire_free(&holder, "a").await;
        let waiter = spawn_acquire(&other, "a");
        wait_for_waiters(&other, "a", 1).await;
        cluster.server(leader).pause().unwrap();
        // By the time that the waiter holds, the stopped leader has renewals in its socket.
        let next = expect_granted(
            "the lease has expired under another leader",
            WAIT_LIMIT * 2,
            waiter,
        )
        .await;
        assert!(guard.check().is_err(), "X1: two guards are held");
        cluster.server(leader).resume().unwrap();
        sleep(TTL).await;
        // The next one need not hold any more: a leader of that age that goes on may have its
        // successor revoke leases which it believes to have expired (etcd issue 15247). Then it has
        // been told.
        assert!(guard.check().is_err());
        assert!(next.token() > guard.token());
        let _ = next.release().await;
    }
}

/// Servers of that age answer keep-alives also when nobody follows them any more, until they see it
/// themselves an election timeout later. What proves a lease has to have been agreed upon.
#[tokio::test(flavor = "multi_thread")]
async fn d2_l1_what_a_leader_answers_whose_followers_are_stopped_is_no_proof() {
    let cluster = Cluster::builder().start().unwrap();
    for _ in 0..3 {
        let leader = cluster.leader().unwrap();
        let holder = client(&cluster.server(leader).url(), TTL).await;
        let guard = acquire_free(&holder, "a").await;
        for step in 1..3 {
            cluster.server(leader + step).pause().unwrap();
        }
        let stopped = SystemClock.now();
        timeout(WAIT_LIMIT, guard.lost())
            .await
            .expect("L1: no loss is told");
        let end = guard.valid_until();
        assert!(
            end <= stopped + TTL,
            "D2: proved {:?} after the last majority",
            end.since(stopped + TTL)
        );
        for step in 1..3 {
            cluster.server(leader + step).resume().unwrap();
        }
        cluster.wait_healthy(WAIT_LIMIT).unwrap();
        wait_until_free(&holder, "a", WAIT_LIMIT).await;
    }
}

/// The address of the two others.
fn followers(cluster: &Cluster, leader: usize) -> String {
    let others = [1, 2].map(|step| cluster.server(leader + step).address());
    format!("etcd://{}", others.join(","))
}
