//! Members that are cut off from each other, while clients keep their connections to them.

use tenure_core::{
    Client, Guard,
    clock::{Clock as _, Instant, SystemClock},
};
use tenure_test_servers::etcd::Cluster;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    common::{
        WAIT_LIMIT, acquire_free, client, expect_granted, millis, seconds, spawn_acquire,
        wait_for_waiters, wait_until,
    },
    contention::Contention,
};

const TTL: std::time::Duration = seconds(2);
/// How late a task may run on a busy machine.
const LATE: std::time::Duration = seconds(1);

fn cluster() -> Cluster {
    Cluster::builder().links().start().unwrap()
}

/// The URL of all members except one.
fn others(cluster: &Cluster, member: usize) -> String {
    let others = [1, 2].map(|step| cluster.server(member + step).address());
    format!("etcd://{}", others.join(","))
}

/// A holder whose client is connected to one member only, and a waiter that is connected to the others.
struct AttachedHolder {
    client: Client,
    guard: Guard,
    waiter: JoinHandle<Guard>,
}

impl AttachedHolder {
    async fn start(cluster: &Cluster, member: usize) -> Self {
        let client_of_one = client(&cluster.server(member).url(), TTL).await;
        let other = client(&others(cluster, member), TTL).await;
        let guard = acquire_free(&client_of_one, "attached").await;
        let waiter = spawn_acquire(&other, "attached");
        wait_for_waiters(&other, "attached", 1).await;
        Self {
            client: client_of_one,
            guard,
            waiter,
        }
    }

    /// Checks that nothing was proved after the member was isolated, that the loss was reported in time, and
    /// that the waiter is granted the lock. Returns the client and the waiter's guard.
    async fn succeeded(self, isolated: Instant, within: std::time::Duration) -> (Client, Guard) {
        let lost = timeout(TTL + WAIT_LIMIT, self.guard.lost()).await;
        assert!(lost.is_ok(), "L1: no loss was reported");
        let (now, end) = (SystemClock.now(), self.guard.valid_until());
        assert!(end <= isolated + TTL, "D2: a member without others proved");
        assert!(now.since(end) < LATE, "L1: lost {:?} late", now.since(end));
        let next = expect_granted("the waiter of the others", within, self.waiter).await;
        assert!(self.guard.check().is_err(), "X1: two guards are held");
        assert!(next.token() > self.guard.token(), "T1");
        (self.client, next)
    }
}

/// Isolates one member, with clients on this member only, on the others only, and on all.
async fn member_is_isolated(cluster: Cluster, member: usize) {
    let (all, rest) = (cluster.url(), others(&cluster, member));
    let contention = Contention::start_each(&[&all, &all, &rest, &rest], TTL).await;
    let limit = contention.time_limit(TTL);
    let attached = AttachedHolder::start(&cluster, member).await;
    let links = cluster.links().unwrap();
    links.isolate(member);
    let (client, next) = attached.succeeded(SystemClock.now(), limit).await;
    let tried = client.lock("free").unwrap().try_acquire().await;
    assert!(tried.is_err(), "a member without others granted: {tried:?}");
    contention
        .wait_until_all_held("a member is isolated", 2, limit)
        .await;

    links.heal();
    cluster.wait_healthy(WAIT_LIMIT).unwrap();
    let again = spawn_acquire(&client, "attached");
    let _ = next.release().await;
    let again = expect_granted("the client of the isolated member", limit, again).await;
    assert!(again.check().is_ok());
    contention
        .wait_until_all_held("the member is back", 2, limit)
        .await;
    contention.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_l1_d2_w2_follower_is_isolated() {
    let cluster = cluster();
    let follower = (cluster.leader().unwrap() + 1) % 3;
    member_is_isolated(cluster, follower).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_l1_d2_w2_leader_is_isolated() {
    let cluster = cluster();
    let leader = cluster.leader().unwrap();
    member_is_isolated(cluster, leader).await;
}

/// Cuts one direction between the leader and both followers, with clients on the leader only and on all.
async fn one_direction_is_cut(leader_sends: bool) {
    let cluster = cluster();
    let contention = Contention::start(&cluster.url(), 3, TTL).await;
    let limit = contention.time_limit(TTL);
    let leader = cluster.leader().unwrap();
    let attached = AttachedHolder::start(&cluster, leader).await;
    let links = cluster.links().unwrap();
    for step in [1, 2] {
        let follower = (leader + step) % 3;
        if leader_sends {
            links.cut(follower, leader);
        } else {
            links.cut(leader, follower);
        }
    }
    let (client, next) = attached.succeeded(SystemClock.now(), limit).await;
    contention
        .wait_until_all_held("one direction is cut", 2, limit)
        .await;
    links.heal();
    cluster.wait_healthy(WAIT_LIMIT).unwrap();
    drop(next);
    let again = spawn_acquire(&client, "attached");
    let again = expect_granted("the client of the old leader", limit, again).await;
    assert!(again.check().is_ok());
    contention
        .wait_until_all_held("both directions are intact", 2, limit)
        .await;
    contention.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_l1_d2_w2_leader_is_not_heard() {
    one_direction_is_cut(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_l1_d2_w2_leader_hears_nothing() {
    one_direction_is_cut(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_w2_leaders_are_isolated_again_and_again() {
    let cluster = cluster();
    let contention = Contention::start(&cluster.url(), 3, TTL).await;
    let links = cluster.links().unwrap();
    let mut leader = cluster.leader().unwrap();
    // Shorter and longer than the election timeout of 500 ms.
    for isolated in [200, 400, 700, 1000, 400, 1000] {
        links.isolate(leader);
        sleep(millis(isolated)).await;
        links.heal();
        sleep(millis(300)).await;
        leader = cluster.leader().unwrap();
    }
    contention
        .wait_until_all_held("the links are intact", 2, contention.time_limit(TTL))
        .await;
    contention.finish().await;
}

/// The member of the client lags for less than the TTL. A renewal reads the entries of a large batch in
/// parts.
#[tokio::test(flavor = "multi_thread")]
async fn l5_k1_large_batch_outlasts_a_member_that_lags() {
    const LOCKS: usize = 150;
    let ttl = seconds(9);
    let cluster = cluster();
    let follower = (cluster.leader().unwrap() + 1) % 3;
    let client = client(&cluster.server(follower).url(), ttl).await;
    let mut guards = Vec::new();
    for index in 0..LOCKS {
        guards.push(acquire_free(&client, &format!("lock-{index}")).await);
    }
    let links = cluster.links().unwrap();
    for _ in 0..2 {
        links.isolate(follower);
        // A renewal is due after a third of the TTL at the latest.
        sleep(ttl / 3 + millis(500)).await;
        links.heal();
        let healed = SystemClock.now();
        // A proof from before the isolation ends earlier.
        let proved = |guard: &Guard| guard.valid_until() > healed + ttl * 2 / 3;
        wait_until("all locks are proved after the member is back", ttl, || {
            guards.iter().all(proved)
        })
        .await;
    }
    let lost = guards.iter().filter(|guard| guard.check().is_err()).count();
    assert_eq!(lost, 0, "L5");
}
