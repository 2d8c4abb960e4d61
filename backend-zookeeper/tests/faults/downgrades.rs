//! A writer that becomes a reader (clause M4).

use std::time::Duration;

use tenure_core::{
    Client, Guard, Lock,
    id::AttemptId,
    loss::LossReason,
    mode::Mode,
    request::{Downgrade, Downgraded, Enqueued, Evicted, Remove, Removed},
};
use tenure_test_servers::wire::Proxy;
use tokio::time::sleep;

use crate::{
    common::{
        LONG, Raw, SOON, TTL, acquire, client_for, granted, idle, millis, name, room, server,
        waiting, within,
    },
    foreign::{ALL, children, contend_as, delete, make},
    modes::{reader, release, shows, take, wait, writer},
};

/// A writer, and a lock of no kind in particular: both are exclusive.
fn exclusive_locks(client: &Client) -> [Lock; 2] {
    [writer(client), client.lock("a").unwrap()]
}

async fn downgrade(guard: Guard) -> Guard {
    let token = guard.token();
    let guard = within("the downgrade", SOON, guard.downgrade()).await;
    let guard = guard.unwrap();
    assert_eq!((guard.token(), guard.mode()), (token, Mode::Shared));
    assert!(guard.check().is_ok());
    guard
}

#[tokio::test(flavor = "multi_thread")]
async fn m4_readers_right_behind_are_admitted_and_a_queued_writer_is_not_overtaken() {
    let _room = room().await;
    let server = server();
    let (client, other) = (
        client_for(&server.url(), LONG).await,
        client_for(&server.url(), LONG).await,
    );
    for lock in exclusive_locks(&client) {
        let writing = take(lock).await;
        let token = writing.token();
        let first = wait(&client, reader(&client), 1).await;
        let second = wait(&client, reader(&other), 2).await;
        let queued = wait(&client, writer(&other), 3).await;
        let late = wait(&client, reader(&client), 4).await;
        let reading = downgrade(writing).await;
        let at_once = Duration::from_secs(1);
        let first = granted("the first reader", at_once, first).await;
        let second = granted("the second reader", at_once, second).await;
        for guard in [&first, &second] {
            assert_eq!(guard.floor(), token);
        }
        let state = shows(&client, 3, 2).await;
        let holder = state.holder.unwrap();
        assert_eq!((holder.token, holder.mode), (Some(token), Mode::Shared));
        assert_eq!(holder.attempt, Some(reading.attempt()));
        release(first).await;
        release(second).await;
        sleep(millis(150)).await;
        assert!(!queued.is_finished() && !late.is_finished());
        // It is renewed under its token.
        within("renewal", SOON, reading.renew()).await.unwrap();
        release(reading).await;
        let queued = granted("the writer", SOON, queued).await;
        assert_eq!(queued.floor(), queued.token());
        release(queued).await;
        release(granted("the late reader", SOON, late).await).await;
        idle(&client, "a", SOON).await;
    }
}

/// The only node ahead of a waiter goes, and that of the reader is there instead. A waiter that took the end
/// of the former for its turn would hold the lock together with the reader.
#[tokio::test(flavor = "multi_thread")]
async fn m1_m4_an_exclusive_waiter_right_behind_is_not_let_in_by_a_downgrade() {
    let _room = room().await;
    let server = server();
    let client = client_for(&server.url(), LONG).await;
    for lock in exclusive_locks(&client) {
        let writing = take(lock).await;
        let waiter = acquire(&client, "a");
        waiting(&client, "a", 1).await;
        // Its watch is set.
        sleep(millis(200)).await;
        let reading = downgrade(writing).await;
        sleep(millis(300)).await;
        assert!(!waiter.is_finished(), "two hold it");
        shows(&client, 1, 1).await;
        release(reading).await;
        release(granted("the waiter", SOON, waiter).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn m4_a2_a_downgrade_whose_answer_is_lost_is_repeated() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = client_for(&proxy.url(), LONG).await;
    let other = client_for(&server.url(), LONG).await;
    for lock in exclusive_locks(&client) {
        let writing = take(lock).await;
        let token = writing.token();
        let behind = wait(&other, reader(&other), 1).await;
        let before = proxy.replies_dropped();
        proxy.drop_reply_of_and_cut("multi");
        let reading = downgrade(writing).await;
        assert!(proxy.replies_dropped() > before, "no answer was lost");
        let behind = granted("the reader", SOON, behind).await;
        assert_eq!(behind.floor(), token);
        release(behind).await;
        let valid = reading.valid_until();
        crate::common::until("it is renewed", SOON, || reading.valid_until() > valid).await;
        let state = shows(&other, 1, 0).await;
        assert_eq!(state.holder.unwrap().token, Some(token));
        release(reading).await;
        assert!(children(&server, "/default/a").await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_i2_the_loss_of_a_downgraded_grant_is_noticed() {
    let _room = room().await;
    let server = server();
    let client = client_for(&server.url(), LONG).await;
    // By an eviction with the token of the writer.
    let reading = downgrade(take(writer(&client)).await).await;
    let other = take(reader(&client)).await;
    let evicted = client.evict(&name("a"), reading.token()).await.unwrap();
    assert_eq!(evicted, Evicted::Evicted);
    within("it is lost", SOON, reading.lost()).await;
    assert!(other.check().is_ok());
    release(other).await;
    // By the deletion of its node, which it watches.
    let reading = downgrade(take(writer(&client)).await).await;
    let node = children(&server, "/default/a").await.remove(0);
    delete(&server, &format!("/default/a/{node}")).await;
    let reason = within("it is lost", SOON, reading.lost()).await;
    assert_eq!(reason, LossReason::Evicted);
    // Before the downgrade.
    let writing = take(writer(&client)).await;
    let node = children(&server, "/default/a").await.remove(0);
    delete(&server, &format!("/default/a/{node}")).await;
    let refused = within("it fails", SOON, writing.downgrade()).await;
    assert!(refused.unwrap_err().to_string().contains("lost"));
    idle(&client, "a", SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn m4_l5_a_downgraded_grant_outlasts_its_connection() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = client_for(&proxy.url(), LONG).await;
    let reading = downgrade(take(writer(&client)).await).await;
    for _ in 0..2 {
        proxy.cut().unwrap();
        let valid = reading.valid_until();
        crate::common::until("it is renewed", SOON, || {
            assert!(reading.check().is_ok(), "it is lost");
            reading.valid_until() > valid
        })
        .await;
    }
    release(reading).await;
}

/// Later versions of Curator downgrade in two steps: a reader's node with the number of the writer's, and then
/// the end of the writer's.
#[tokio::test(flavor = "multi_thread")]
async fn m1_m4_a_downgrade_by_another_program_lets_readers_in_and_no_writer() {
    let _room = room().await;
    let server = server();
    let client = client_for(&server.url(), LONG).await;
    release(take(writer(&client)).await).await;
    for lock in [writer(&client), client.lock("a").unwrap()] {
        let foreign = contend_as(&server, "/default/a", "x-__WRIT__").await;
        let waiter = wait(&client, lock, 1).await;
        sleep(millis(200)).await;
        let reading = foreign.replace("__WRIT__", "__READ__");
        make(&server, &reading, ALL).await;
        delete(&server, &foreign).await;
        sleep(millis(300)).await;
        assert!(!waiter.is_finished(), "two hold it");
        delete(&server, &reading).await;
        release(granted("the waiter", SOON, waiter).await).await;
        // A reader right behind is admitted, and knows the reader ahead.
        let foreign = contend_as(&server, "/default/a", "x-__WRIT__").await;
        let waiter = wait(&client, reader(&client), 1).await;
        let reading = foreign.replace("__WRIT__", "__READ__");
        make(&server, &reading, ALL).await;
        assert!(!waiter.is_finished(), "the writer is ahead of its reader");
        delete(&server, &foreign).await;
        let guard = granted("the reader", SOON, waiter).await;
        let holder = shows(&client, 2, 0).await.holder.unwrap();
        assert_eq!((holder.attempt, holder.mode), (None, Mode::Shared));
        release(guard).await;
        delete(&server, &reading).await;
    }
}

/// The driver alone: repeated requests, another token, and an attempt that is removed.
#[tokio::test(flavor = "multi_thread")]
async fn m4_r1_a_downgrade_can_be_repeated_and_the_removal_follows_it() {
    let _room = room().await;
    let server = server();
    let raw = Raw::connect(&server.url()).await;
    let attempt = AttemptId::random().unwrap();
    let entered = raw.backend.enqueue(Raw::enqueue("a", attempt)).await;
    let Ok(Enqueued::Granted(grant)) = entered else {
        panic!("{entered:?}");
    };
    let request = |token| Downgrade::new(name("a"), attempt, TTL, token);
    let other = tenure_core::token::FencingToken::new(grant.token.get() + 1);
    let refused = raw.backend.downgrade(request(other)).await.unwrap();
    assert_eq!(refused, Downgraded::Gone(LossReason::Displaced));
    for _ in 0..2 {
        let done = raw.backend.downgrade(request(grant.token)).await.unwrap();
        assert_eq!(done, Downgraded::Shared);
    }
    let nodes = children(&server, "/default/a").await;
    assert!(
        nodes.len() == 1 && nodes[0].contains("__READ__"),
        "{nodes:?}"
    );
    let remove = || Remove::new(name("a"), attempt, TTL, true);
    let removed = raw.backend.remove(remove()).await.unwrap();
    assert_eq!(removed, Removed::AsHolder);
    assert!(children(&server, "/default/a").await.is_empty());
    let late = raw.backend.downgrade(request(grant.token)).await.unwrap();
    assert!(matches!(late, Downgraded::Gone(_)), "{late:?}");
    assert!(children(&server, "/default/a").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn m4_a4_the_removal_after_a_downgrade_without_an_answer_leaves_nothing() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let raw = Raw::connect(&proxy.url()).await;
    for _ in 0..4 {
        let attempt = AttemptId::random().unwrap();
        let entered = raw.backend.enqueue(Raw::enqueue("a", attempt)).await;
        let Ok(Enqueued::Granted(grant)) = entered else {
            panic!("{entered:?}");
        };
        let before = proxy.replies_dropped();
        proxy.drop_reply_of_and_cut("multi");
        let request = Downgrade::new(name("a"), attempt, TTL, grant.token);
        let unknown = raw.backend.downgrade(request).await;
        assert!(unknown.is_err(), "{unknown:?}");
        assert!(proxy.replies_dropped() > before, "no answer was lost");
        let remove = || Remove::new(name("a"), attempt, TTL, true);
        let begun = tokio::time::Instant::now();
        while let Err(error) = raw.backend.remove(remove()).await {
            assert!(begun.elapsed() < SOON, "{error}");
            sleep(millis(20)).await;
        }
        let left = children(&server, "/default/a").await;
        assert!(left.is_empty(), "{left:?}");
    }
}
