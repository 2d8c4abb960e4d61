//! Marks: a new holder of permits writes to its node, for the waiter behind it.

use tenure_test_servers::wire::Proxy;
use tokio::time::{Instant, sleep};

use crate::{
    common::{LONG, SOON, client_for, granted, millis, room, server, until, waiting},
    foreign::{children, write_over},
    modes::{MOMENT, permits, release, take, wait},
};

/// A new holder of permits marks its node, so that the waiter behind it joins it at once and not with its
/// next report.
#[tokio::test(flavor = "multi_thread")]
async fn w2_the_waiter_behind_a_new_holder_is_woken_by_its_mark() {
    const ROUNDS: usize = 6;
    let _room = room().await;
    let server = server();
    let (client, other) = (
        client_for(&server.url(), LONG).await,
        client_for(&server.url(), LONG).await,
    );
    let mut slow = Vec::new();
    for round in 0..ROUNDS {
        let first = take(permits(&client, 2, 3)).await;
        let second = wait(&client, permits(&other, 2, 3), 1).await;
        let third = wait(&client, permits(&client, 1, 3), 2).await;
        sleep(millis(200)).await;
        let begun = Instant::now();
        release(first).await;
        let third = granted("the third", SOON, third).await;
        if begun.elapsed() > millis(500) {
            slow.push((round, begun.elapsed()));
        }
        release(granted("the second", SOON, second).await).await;
        release(third).await;
    }
    assert!(slow.len() < ROUNDS / 2, "{slow:?}");
}

/// A client that stands still when it becomes a holder does not write its mark. The waiter behind it finds
/// out with its next report.
#[tokio::test(flavor = "multi_thread")]
async fn w2_a_mark_that_is_late_costs_a_third_of_a_ttl() {
    let _room = room().await;
    let server = server();
    let owner = client_for(&server.url(), LONG).await;
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let slow = client_for(&proxy.url(), LONG).await;
    let _ = take(permits(&slow, 1, 3)).await.release().await;
    let first = take(permits(&owner, 2, 3)).await;
    let second = wait(&owner, permits(&slow, 2, 3), 1).await;
    let third = wait(&owner, permits(&owner, 1, 3), 2).await;
    until("it watches", SOON, || proxy.count("multiRead") > 0).await;
    sleep(millis(200)).await;
    proxy.hold_requests();
    let begun = Instant::now();
    release(first).await;
    let third = granted("the third", LONG, third).await;
    assert!(begun.elapsed() < LONG * 3 / 4, "{:?}", begun.elapsed());
    proxy.release_requests();
    assert!(third.check().is_ok());
    drop(second);
}

/// A mark whose answer is lost is written again on the next connection.
#[tokio::test(flavor = "multi_thread")]
async fn w2_a_mark_without_an_answer_costs_no_grant() {
    let _room = room().await;
    let server = server();
    let owner = client_for(&server.url(), LONG).await;
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let slow = client_for(&proxy.url(), LONG).await;
    let first = take(permits(&owner, 2, 3)).await;
    let second = wait(&owner, permits(&slow, 2, 3), 1).await;
    let third = wait(&owner, permits(&owner, 1, 3), 2).await;
    until("it watches", SOON, || proxy.count("multiRead") > 0).await;
    let before = proxy.replies_dropped();
    proxy.drop_reply_of_and_cut("setData");
    release(first).await;
    let second = granted("the second", SOON, second).await;
    let third = granted("the third", SOON, third).await;
    until("an answer is lost", SOON, || {
        proxy.replies_dropped() > before
    })
    .await;
    second.renew().await.unwrap();
    assert!(second.check().is_ok() && third.check().is_ok());
    assert!(
        second.last_renewal_error().is_none(),
        "its own write is no defect"
    );
    release(second).await;
    release(third).await;
}

/// A program that writes to the node of a waiter is no mark.
#[tokio::test(flavor = "multi_thread")]
async fn m2_a_node_that_another_program_writes_to_is_not_taken_for_a_holder() {
    let _room = room().await;
    let server = server();
    let client = client_for(&server.url(), LONG).await;
    let first = take(permits(&client, 2, 3)).await;
    let _second = wait(&client, permits(&client, 2, 3), 1).await;
    let nodes = children(&server, "/default/a").await;
    let waits = nodes.iter().max_by_key(|node| &node[node.len() - 10..]);
    let path = format!("/default/a/{}", waits.unwrap());
    write_over(&server, &path, b"something else").await;
    let third = wait(&client, permits(&client, 1, 3), 2).await;
    sleep(MOMENT).await;
    assert!(!third.is_finished(), "it overtakes the second");
    third.abort();
    waiting(&client, "a", 1).await;
    release(first).await;
}
