//! Processes that are stopped and continued: the owner of a lock, a leader, the leader's followers.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use tenure_core::{
    Client, Guard, Release,
    clock::{Clock as _, SystemClock},
};
use tenure_test_servers::zookeeper::Cluster;
use tokio::task::{JoinHandle, block_in_place};

use crate::common::{
    BOUND, LONG, SOON, TTL, acquire_through, client, client_for, cluster, granted, hold, millis,
    regain, room, until, waiting, within,
};

/// Where [`a_process_that_holds`] finds the servers.
const URL: &str = "TENURE_TEST_URL";
const LOCK: &str = "owner";

/// An owner in a process of its own, which reports whether its guard is held.
struct OwnerProcess {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl OwnerProcess {
    fn start(url: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "stopped::a_process_that_holds", "--ignored"])
            .arg("--nocapture")
            .env(URL, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            orders,
            answers,
        }
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(status.success(), "kill {signal}");
    }

    fn order(&mut self, what: &str) {
        writeln!(self.orders, "{what}").unwrap();
    }

    /// Its next report.
    fn answer(&mut self) -> String {
        block_in_place(|| {
            loop {
                let mut line = String::new();
                let read = self.answers.read_line(&mut line).unwrap();
                assert_ne!(read, 0, "it has ended");
                // The test harness prints too, possibly on the same line before the report.
                if let Some((_, said)) = line.trim_end().split_once("owner: ") {
                    return said.to_owned();
                }
            }
        })
    }
}

impl Drop for OwnerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[ignore = "a part of the test after it"]
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_holds() {
    let owner = client_for(&std::env::var(URL).unwrap(), 2 * TTL).await;
    let mut guard = hold(&owner, LOCK).await;
    println!("owner: {}", guard.token());
    for order in std::io::stdin().lines() {
        match order.unwrap().as_str() {
            "check" => match guard.check() {
                Ok(_) => println!("owner: held"),
                Err(_) => println!("owner: lost"),
            },
            "release" => match guard.release().await {
                Release::NotHeld(_) => println!("owner: not held"),
                other => println!("owner: {other:?}"),
            },
            "again" => {
                guard = regain(&owner, LOCK, BOUND).await;
                println!("owner: {}", guard.token());
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_l4_t1_a_session_that_expires_while_its_owner_is_stopped() {
    let _room = room().await;
    let cluster = cluster();
    let mut owner = OwnerProcess::start(&cluster.url());
    let token: u64 = owner.answer().parse().unwrap();
    let other = client_for(&cluster.url(), LONG).await;
    let waiter = acquire_through(&other, LOCK);
    waiting(&other, LOCK, 1).await;
    owner.order("check");
    assert_eq!(owner.answer(), "held");
    owner.signal("-STOP");
    let next = granted("the lock of a stopped owner", BOUND, waiter).await;
    assert!(next.token().get() > token);
    // The process reports this first when it continues.
    owner.order("check");
    owner.signal("-CONT");
    assert_eq!(owner.answer(), "lost", "two hold it");
    owner.order("release");
    assert_eq!(owner.answer(), "not held");
    assert!(next.check().is_ok(), "the late release took another's lock");
    owner.order("again");
    waiting(&other, LOCK, 1).await;
    assert!(matches!(next.release().await, Release::Released));
    let again: u64 = owner.answer().parse().unwrap();
    assert!(again > next.token().get());
    owner.order("check");
    assert_eq!(owner.answer(), "held");
}

/// A lock whose holder is connected to the leader only, and a waiter that may use any member. Returns
/// the leader, the holder, its guard, and the waiter.
async fn held_at_leader(cluster: &Cluster) -> (usize, Client, Guard, JoinHandle<Guard>) {
    let leader = cluster.leader().unwrap();
    let owner = client(&cluster.server(leader).url()).await;
    let other = client_for(&cluster.url(), LONG).await;
    let guard = hold(&owner, LOCK).await;
    let waiter = acquire_through(&other, LOCK);
    waiting(&other, LOCK, 1).await;
    (leader, owner, guard, waiter)
}

/// A leader answers a heartbeat without asking its followers. It stops when they have been silent for
/// `syncLimit`, which is 1.5 s here, and serves until then.
#[tokio::test(flavor = "multi_thread")]
async fn l1_x1_a_leader_whose_followers_are_stopped_proves_nothing_after_a_while() {
    let _room = room().await;
    let cluster = cluster();
    let (leader, owner, guard, waiter) = held_at_leader(&cluster).await;
    let followers = [leader + 1, leader + 2];
    for follower in followers {
        cluster.server(follower).pause().unwrap();
    }
    let stopped = SystemClock.now();
    within("the loss", 2 * SOON, guard.lost()).await;
    let end = guard.valid_until();
    // The leader counts its ticks one by one, and loses time on a busy machine.
    let counted = end.since(stopped + TTL);
    assert!(
        counted < millis(10_000),
        "heartbeats counted for {counted:?}"
    );
    assert!(SystemClock.now() >= end, "lost before its deadline");
    assert!(guard.check().is_err());
    // Another leader is elected meanwhile, and the old one joins it.
    cluster.server(leader).pause().unwrap();
    for follower in followers {
        cluster.server(follower).resume().unwrap();
    }
    let next = granted("the waiter, under another leader", BOUND, waiter).await;
    assert!(next.token() > guard.token());
    assert_ne!(cluster.leader().unwrap(), leader);
    cluster.server(leader).resume().unwrap();
    cluster.wait_healthy(BOUND).unwrap();
    assert!(guard.check().is_err(), "two hold it");
    assert!(matches!(guard.release().await, Release::NotHeld(_)));
    assert!(next.check().is_ok());
    assert!(matches!(next.release().await, Release::Released));
    let again = regain(&owner, LOCK, BOUND).await;
    assert!(again.token() > next.token());
}

/// The holder is connected to that leader only.
#[tokio::test(flavor = "multi_thread")]
async fn x1_a_leader_that_was_deposed_while_it_was_stopped_gives_no_second_holder() {
    let _room = room().await;
    let cluster = cluster();
    let (leader, owner, guard, waiter) = held_at_leader(&cluster).await;
    cluster.server(leader).pause().unwrap();
    let another = || {
        let leads = |member: usize| cluster.server(member).is_leader().unwrap_or(false);
        block_in_place(|| leads(leader + 1) || leads(leader + 2))
    };
    until("another leader", BOUND, another).await;
    // The old leader takes itself for the leader until it notices the election.
    cluster.server(leader).resume().unwrap();
    let before = guard.valid_until();
    // Either the session lapses, or it continues under the new leader and the lock is released.
    until("the session goes on, or lapses", BOUND, || {
        let over = waiter.is_finished();
        over || guard.check().is_err() || guard.valid_until() > before
    })
    .await;
    if !waiter.is_finished() {
        drop(guard.release().await);
    }
    let next = granted("the waiter", BOUND, waiter).await;
    assert!(guard.check().is_err(), "two hold it");
    assert!(next.token() > guard.token());
    cluster.wait_healthy(BOUND).unwrap();
    assert!(matches!(next.release().await, Release::Released));
    let again = regain(&owner, LOCK, BOUND).await;
    assert!(again.token() > next.token());
}
