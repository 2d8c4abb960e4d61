//! Members that are cut off from each other, while clients keep their connections to them.

use tenure_core::{
    Client, Guard,
    clock::{Clock as _, Instant, SystemClock},
};
use tenure_test_servers::zookeeper::Cluster;
use tokio::{
    task::{JoinHandle, block_in_place},
    time::sleep,
};

use crate::{
    common::{
        BOUND, LONG, SOON, TTL, acquire_through, client, client_for, granted, hold, millis, regain,
        room, settings, waiting, within,
    },
    contention::Contenders,
};

const LOCK: &str = "attached";

/// A leader that is cut off answers heartbeats for `syncLimit`, which is 1.5 s here, and counts its ticks one
/// by one, so that it loses time on a busy machine.
const LEADS_ON: std::time::Duration = millis(5_000);

/// A holder whose client is connected to one member only, and a waiter that is connected to the others.
struct AttachedHolder {
    client: Client,
    guard: Guard,
    waiter: JoinHandle<Guard>,
}

impl AttachedHolder {
    async fn start(cluster: &Cluster, member: usize) -> Self {
        let client_of_one = client(&cluster.server(member).url()).await;
        let other = client_for(&others(cluster, member), LONG).await;
        let guard = hold(&client_of_one, LOCK).await;
        let waiter = acquire_through(&other, LOCK);
        waiting(&other, LOCK, 1).await;
        Self {
            client: client_of_one,
            guard,
            waiter,
        }
    }

    /// Checks that the loss comes at the deadline, which nothing has moved long after the isolation, and that
    /// the waiter is granted the lock. Returns the client and the waiter's guard.
    async fn succeeded(self, isolated: Instant) -> (Client, Guard) {
        within("the loss", TTL + LEADS_ON + SOON, self.guard.lost()).await;
        let (now, end) = (SystemClock.now(), self.guard.valid_until());
        assert!(
            end <= isolated + TTL + LEADS_ON,
            "a member without others proved"
        );
        assert!(now >= end, "lost before its deadline");
        let next = granted("the waiter of the others", BOUND, self.waiter).await;
        assert!(self.guard.check().is_err(), "two hold it");
        assert!(next.token() > self.guard.token());
        (self.client, next)
    }
}

/// A cluster whose links can be cut. A member that another one elects, and that cannot answer it, is given
/// up after `initLimit` in ticks.
fn linked_cluster() -> Cluster {
    let members = settings().config("initLimit", "30");
    Cluster::builder().members(members).links().start().unwrap()
}

/// The address of all members except one.
fn others(cluster: &Cluster, member: usize) -> String {
    let others = [1, 2].map(|step| cluster.server(member + step).address());
    format!("zookeeper://{}", others.join(","))
}

/// Isolates one member, with clients on this member only, on the others only, and on all.
async fn a_member_is_isolated(cluster: Cluster, member: usize) {
    let (all, rest) = (cluster.url(), others(&cluster, member));
    let contenders = Contenders::start_each([&all, &all, &rest]).await;
    let attached = AttachedHolder::start(&cluster, member).await;
    cluster.links().unwrap().isolate(member);
    let (client, next) = attached.succeeded(SystemClock.now()).await;
    let tried = client.lock("free").unwrap().try_acquire().await;
    assert!(tried.is_err(), "a member without others granted: {tried:?}");
    contenders.wait_for_progress(BOUND).await;
    cluster.links().unwrap().heal();
    block_in_place(|| cluster.wait_healthy(BOUND)).unwrap();
    let _ = next.release().await;
    let again = regain(&client, LOCK, BOUND).await;
    assert!(again.token() > next.token());
    contenders.wait_for_progress(BOUND).await;
    contenders.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_l1_d2_w2_a_follower_that_is_isolated() {
    let _room = room().await;
    let cluster = linked_cluster();
    let follower = (cluster.leader().unwrap() + 1) % 3;
    a_member_is_isolated(cluster, follower).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_l1_d2_w2_a_leader_that_is_isolated() {
    let _room = room().await;
    let cluster = linked_cluster();
    let leader = cluster.leader().unwrap();
    a_member_is_isolated(cluster, leader).await;
}

/// Cuts one direction between the leader and both followers, with clients on the leader only and on all.
async fn one_direction_is_cut(leader_sends: bool) {
    let cluster = linked_cluster();
    let contenders = Contenders::start(&cluster.url()).await;
    let leader = cluster.leader().unwrap();
    let attached = AttachedHolder::start(&cluster, leader).await;
    for step in [1, 2] {
        let follower = (leader + step) % 3;
        let (from, to) = if leader_sends {
            (follower, leader)
        } else {
            (leader, follower)
        };
        cluster.links().unwrap().cut(from, to);
    }
    let (client, next) = attached.succeeded(SystemClock.now()).await;
    contenders.wait_for_progress(BOUND).await;
    cluster.links().unwrap().heal();
    block_in_place(|| cluster.wait_healthy(BOUND)).unwrap();
    drop(next);
    let _ = regain(&client, LOCK, BOUND).await;
    contenders.wait_for_progress(BOUND).await;
    contenders.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_l1_d2_w2_a_leader_that_is_not_heard() {
    let _room = room().await;
    one_direction_is_cut(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_l1_d2_w2_a_leader_that_hears_nothing() {
    let _room = room().await;
    one_direction_is_cut(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_w2_leaders_that_are_isolated_again_and_again() {
    let _room = room().await;
    let cluster = linked_cluster();
    let contenders = Contenders::start(&cluster.url()).await;
    let mut leader = block_in_place(|| cluster.leader()).unwrap();
    // Shorter and longer than `syncLimit`.
    for isolated in [500, 1000, 2000, 500, 2000] {
        cluster.links().unwrap().isolate(leader);
        sleep(millis(isolated)).await;
        cluster.links().unwrap().heal();
        sleep(millis(500)).await;
        leader = block_in_place(|| cluster.leader()).unwrap();
    }
    contenders.wait_for_progress(BOUND).await;
    contenders.end().await;
}
