//! Nodes ahead that go just when they are looked at.

use std::time::Duration;

use tenure_test_servers::{wire::Proxy, zookeeper::Server};
use tokio::time::{Instant, sleep};

use crate::{
    common::{SOON, acquire, client_for, granted, hold, millis, room, until, waiting},
    foreign::{ALL, children, contend, delete, make, write_over},
};

const ROUNDS: usize = 6;
const LONG: Duration = Duration::from_secs(18);
/// Who is not woken finds out with a report, a third of the TTL later.
const SLOW: Duration = Duration::from_secs(2);

/// At which moment the two ahead go.
#[derive(Clone, Copy)]
enum Moment {
    /// Between the list and the look at the nearest one.
    Listed,
    /// After the look, so that the word comes together with its answer.
    Looked,
}

async fn wakes(moment: Moment) {
    let _room = room().await;
    let server = Server::builder()
        .force_sync(false)
        .config("maxSessionTimeout", &LONG.as_millis().to_string());
    let server = server.start().unwrap();
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
                // The list is made before the nodes go.
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
    // One or two may be slow on a machine that has much else to do.
    assert!(slow.len() < ROUNDS / 2, "{slow:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_change_that_is_told_with_the_answer_wakes_the_waiter() {
    wakes(Moment::Looked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_node_that_goes_before_it_is_watched_is_noticed() {
    wakes(Moment::Listed).await;
}

/// Who waits behind another of its client has no watch on that one's node: it hears of it by the watch
/// which that one has itself, also where that comes too late.
#[tokio::test(flavor = "multi_thread")]
async fn w2_a_waiter_behind_one_of_its_client_hears_when_somebody_deletes_that() {
    let _room = room().await;
    let server = Server::builder()
        .force_sync(false)
        .config("maxSessionTimeout", &LONG.as_millis().to_string());
    let server = server.start().unwrap();
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
            // With its own watch; else perhaps without.
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

/// How many requests looked at a node of a lock, and not at the root as heartbeats do.
fn own_watches(proxy: &Proxy) -> usize {
    let commands = proxy.commands().into_iter();
    commands
        .filter(|command| command.name == "exists" && command.argument(0) != "/")
        .count()
}

/// An event uses up a watch, so it has to be set again.
#[tokio::test(flavor = "multi_thread")]
async fn l2_a_node_that_was_written_over_is_watched_again() {
    let _room = room().await;
    let server = Server::builder()
        .force_sync(false)
        .config("maxSessionTimeout", &LONG.as_millis().to_string());
    let server = server.start().unwrap();
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
/// again, and then the holder leaves, the waiter must not take its turn for granted.
#[tokio::test(flavor = "multi_thread")]
async fn w4_x1_a_waiter_whose_node_was_written_over_and_deleted_is_granted_nothing() {
    let _room = room().await;
    let server = Server::builder()
        .force_sync(false)
        .config("maxSessionTimeout", &LONG.as_millis().to_string());
    let server = server.start().unwrap();
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
