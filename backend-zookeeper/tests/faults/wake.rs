//! Nodes ahead of a waiter that are deleted while the waiter reads them.

use std::time::Duration;

use tenure_test_servers::{wire::Proxy, zookeeper::Server};
use tokio::time::{Instant, sleep};

use crate::{
    common::{SOON, acquire, client_for, granted, hold, millis, room, until, waiting},
    foreign::{ALL, children, contend, delete, make, write_over},
};

const ROUNDS: usize = 6;
const LONG: Duration = Duration::from_secs(18);
/// A waiter that is not woken finds out with a report, a third of the TTL later.
const SLOW: Duration = Duration::from_secs(2);

/// A server that grants sessions of [`LONG`].
fn server() -> Server {
    let server = Server::builder()
        .force_sync(false)
        .config("maxSessionTimeout", &LONG.as_millis().to_string());
    server.start().unwrap()
}

/// The moment at which the two nodes ahead are deleted.
#[derive(Clone, Copy)]
enum Moment {
    /// Between the list and the look-up of the nearest one.
    Listed,
    /// After the look-up, so that the event arrives together with its answer.
    Looked,
}

async fn wakes(moment: Moment) {
    let _room = room().await;
    let server = server();
    make(&server, "/default", ALL).await;
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = client_for(&proxy.url(), LONG).await;
    let _ = hold(&client, "warm").await.release().await;
    let mut slow = Vec::new();
    for round in 0..ROUNDS {
        let path = format!("/default/l{round}");
        make(&server, &path, ALL).await;
        let ahead = [contend(&server, &path).await, contend(&server, &path).await];
        proxy.reset();
        match moment {
            Moment::Listed => proxy.hold_replies(),
            Moment::Looked => proxy.delay_replies(millis(40)),
        }
        let waiter = acquire(&client, &format!("l{round}"));
        match moment {
            Moment::Listed => {
                until("it lists", SOON, || proxy.count("getChildren2") > 0).await;
                // The server makes the list before the nodes are deleted.
                sleep(millis(50)).await;
            }
            Moment::Looked => {
                until("it looks ahead", SOON, || proxy.count("multiRead") > 0).await;
                proxy.hold_replies();
            }
        }
        for node in &ahead {
            delete(&server, node).await;
        }
        proxy.delay_replies(millis(0));
        sleep(millis(100)).await;
        let begun = Instant::now();
        proxy.release_replies();
        let guard = granted("the waiter", SOON, waiter).await;
        if begun.elapsed() > SLOW {
            slow.push((round, begun.elapsed()));
        }
        let _ = guard.release().await;
    }
    // One or two may be slow on a busy machine.
    assert!(slow.len() < ROUNDS / 2, "{slow:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_an_event_that_arrives_with_the_answer_wakes_the_waiter() {
    wakes(Moment::Looked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_node_deleted_before_it_is_watched_is_noticed() {
    wakes(Moment::Listed).await;
}

/// A waiter behind another attempt of its own client watches that attempt's node as any other.
#[tokio::test(flavor = "multi_thread")]
async fn w2_a_waiter_behind_an_attempt_of_its_own_client_is_woken_by_its_deletion() {
    let _room = room().await;
    let server = server();
    let client = client_for(&server.url(), LONG).await;
    let mut slow = Vec::new();
    for round in 0..ROUNDS {
        let lock = format!("l{round}");
        let path = format!("/default/{lock}");
        let guard = hold(&client, &lock).await;
        let held = children(&server, &path).await;
        let second = acquire(&client, &lock);
        waiting(&client, &lock, 1).await;
        let both = children(&server, &path).await;
        let node = both.iter().find(|node| !held.contains(node)).unwrap();
        let third = acquire(&client, &lock);
        waiting(&client, &lock, 2).await;
        if round % 2 == 0 {
            // By now the node's own watch is set; in the other rounds it may not be.
            sleep(millis(50)).await;
        }
        delete(&server, &format!("{path}/{node}")).await;
        second.abort();
        let begun = Instant::now();
        let _ = guard.release().await;
        let guard = granted("the third", SOON, third).await;
        if begun.elapsed() > SLOW {
            slow.push((round, begun.elapsed()));
        }
        let _ = guard.release().await;
    }
    assert!(slow.len() < ROUNDS / 2, "{slow:?}");
}

/// An event that is no deletion uses up the watch of a node ahead, so it has to be set again.
#[tokio::test(flavor = "multi_thread")]
async fn w2_x3_a_node_ahead_that_was_overwritten_is_watched_again() {
    let _room = room().await;
    let server = server();
    make(&server, "/default", ALL).await;
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = client_for(&proxy.url(), LONG).await;
    let _ = hold(&client, "warm").await.release().await;
    let mut slow = Vec::new();
    for round in 0..ROUNDS {
        let lock = format!("l{round}");
        let path = format!("/default/{lock}");
        make(&server, &path, ALL).await;
        let ahead = [contend(&server, &path).await, contend(&server, &path).await];
        let waiter = acquire(&client, &lock);
        until("it watches", SOON, || proxy.count("multiRead") > 0).await;
        sleep(millis(100)).await;
        // The second nearest node and the nearest one, in turn.
        proxy.reset();
        let begun = Instant::now();
        write_over(&server, &ahead[round % 2], b"something else").await;
        until("it watches again", SOON, || own_watches(&proxy) > 0).await;
        sleep(millis(100)).await;
        for node in &ahead {
            delete(&server, node).await;
        }
        let guard = granted("the waiter", SOON, waiter).await;
        if begun.elapsed() > SLOW {
            slow.push((round, begun.elapsed()));
        }
        let _ = guard.release().await;
        proxy.reset();
    }
    assert!(slow.len() < ROUNDS / 2, "{slow:?}");
}

/// How many requests looked up a node of a lock. Heartbeats look up the root.
fn own_watches(proxy: &Proxy) -> usize {
    let commands = proxy.commands().into_iter();
    commands
        .filter(|command| command.name == "exists" && command.argument(0) != "/")
        .count()
}

/// An event uses up a watch, so it has to be set again.
#[tokio::test(flavor = "multi_thread")]
async fn l2_an_overwritten_node_is_watched_again() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = client_for(&proxy.url(), LONG).await;
    let mut slow = Vec::new();
    for round in 0..ROUNDS {
        let path = format!("/default/l{round}");
        proxy.reset();
        let guard = hold(&client, &format!("l{round}")).await;
        let looked = |times| own_watches(&proxy) >= times;
        until("it is watched", SOON, || looked(1)).await;
        sleep(millis(100)).await;
        let node = format!("{path}/{}", children(&server, &path).await[0]);
        write_over(&server, &node, b"something else").await;
        until("it is looked at and watched again", SOON, || looked(2)).await;
        sleep(millis(100)).await;
        delete(&server, &node).await;
        let begun = Instant::now();
        until("it is lost", SOON, || guard.check().is_err()).await;
        if begun.elapsed() > SLOW {
            slow.push((round, begun.elapsed()));
        }
    }
    assert!(slow.len() < ROUNDS / 2, "{slow:?}");
}

/// The event of a node that was written over uses up its watch. If the node is deleted before it is watched
/// again, and then the holder leaves, the waiter must not assume that it is its turn.
#[tokio::test(flavor = "multi_thread")]
async fn w4_x1_a_waiter_whose_node_was_overwritten_and_deleted_is_granted_nothing() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = client_for(&proxy.url(), LONG).await;
    let other = client_for(&server.url(), LONG).await;
    let holder = hold(&other, "a").await;
    let held = children(&server, "/default/a").await;
    let waiter = acquire(&client, "a");
    waiting(&other, "a", 1).await;
    let both = children(&server, "/default/a").await;
    let node = both.iter().find(|node| !held.contains(node)).unwrap();
    let node = format!("/default/a/{node}");
    let third = acquire(&other, "a");
    waiting(&other, "a", 2).await;
    sleep(millis(300)).await;
    proxy.hold_requests();
    write_over(&server, &node, b"something else").await;
    sleep(millis(100)).await;
    delete(&server, &node).await;
    let _ = holder.release().await;
    let third = granted("the third", SOON, third).await;
    sleep(millis(200)).await;
    if waiter.is_finished() {
        let guard = waiter.await.unwrap();
        assert!(
            guard.check().is_err() || third.check().is_err(),
            "two guards are held"
        );
    }
    proxy.release_requests();
}
