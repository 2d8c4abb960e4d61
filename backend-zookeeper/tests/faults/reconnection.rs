//! Attempts whose answers arrive, or are read, while the connection changes.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tenure_core::{
    Client,
    clock::{Clock as _, SystemClock},
    error::ErrorKind,
    lease::DriftBounds,
};
use tenure_test_servers::wire::Proxy;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    common::{
        LONG, SOON, TTL, acquire, client, client_for, hold, millis, name, room, server, store,
        until, waiting, within,
    },
    foreign::{ALL, DELETE, children, contend, delete, grant, write_over},
};

/// Polls a future once.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context: &mut Context<'_>| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

/// A removal that the servers refuse must not keep the session from being checked on the next connection.
#[tokio::test(flavor = "multi_thread")]
async fn l5_a_forbidden_release_costs_no_other_lock_after_a_reconnection() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = client_for(&proxy.url(), TTL).await;
    let kept = hold(&owner, "kept").await;
    let forbidden = hold(&owner, "forbidden").await;
    grant(&server, "/default/forbidden", ALL & !DELETE).await;
    proxy.reset();
    drop(forbidden);
    until("the removal is refused", SOON, || proxy.count("delete") > 0).await;
    proxy.cut().unwrap();
    let enough = kept.valid_until() + TTL;
    until("it is held for a TTL more", SOON, || {
        assert!(kept.check().is_ok(), "a removal of another lock cost it");
        kept.valid_until() > enough
    })
    .await;
}

/// A waiter that was answered before its position was known learns from its next report that the holder
/// cannot be read. It leaves nothing in the queue, and costs no other lock.
#[tokio::test(flavor = "multi_thread")]
async fn s2_w2_a_waiter_that_was_answered_early_fails_behind_a_holder_that_cannot_be_read() {
    let _room = room().await;
    let server = server();
    let link = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = Client::builder(store(&link.url()))
        .ttl(LONG)
        .request_timeout(millis(1000))
        .connect()
        .await
        .unwrap();
    let kept = hold(&owner, "kept").await;
    let _ = hold(&owner, "a").await.release().await;
    let foreign = contend(&server, "/default/a").await;
    write_over(&server, &foreign, b"{\"tenure\":1,scribbled").await;
    link.delay_replies(millis(500));
    let waiter = owner.lock("a").unwrap();
    let waiter = tokio::spawn(async move { waiter.acquire().await });
    sleep(millis(1200)).await;
    link.cut().unwrap();
    link.delay_replies(Duration::ZERO);
    let error = within("it fails", 2 * LONG, waiter).await.unwrap();
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt);
    let begun = Instant::now();
    while children(&server, "/default/a").await.len() > 1 {
        assert!(begun.elapsed() < SOON, "its node is left");
        sleep(millis(20)).await;
    }
    assert!(kept.check().is_ok(), "another lock was lost");
}

/// An acquire whose task is not polled for a while reads an answer of a connection that is lost.
#[tokio::test(flavor = "multi_thread")]
async fn l5_a_grant_that_is_taken_late_is_renewed_on_the_next_connection() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = client_for(&proxy.url(), TTL).await;
    let other = hold(&owner, "other").await;
    let _ = hold(&owner, "a").await.release().await;
    proxy.reset();
    let lock = owner.lock("a").unwrap();
    let mut acquiring = Box::pin(lock.acquire());
    assert!(poll_once(acquiring.as_mut()).await.is_none());
    until("it is sent", SOON, || proxy.count("getChildren2") > 0).await;
    sleep(millis(150)).await;
    proxy.cut().unwrap();
    let before = other.valid_until();
    until("the next connection is proved", SOON, || {
        other.valid_until() > before
    })
    .await;
    // An error is allowed too: the attempt is then removed.
    let Ok(guard) = acquiring.await else { return };
    let begun = Instant::now();
    while begun.elapsed() < 3 * TTL && other.check().is_ok() {
        assert!(guard.check().is_ok(), "its session lives");
        sleep(millis(20)).await;
    }
}

/// As above; the node is deleted before the answer is read, and another client has the lock.
#[tokio::test(flavor = "multi_thread")]
async fn x1_w4_an_answer_that_is_taken_late_grants_nothing_if_the_node_is_gone() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = client_for(&proxy.url(), TTL).await;
    let third = client_for(&server.url(), TTL).await;
    let other = hold(&owner, "other").await;
    let _ = hold(&owner, "a").await.release().await;
    proxy.reset();
    let lock = owner.lock("a").unwrap();
    let mut acquiring = Box::pin(lock.acquire());
    assert!(poll_once(acquiring.as_mut()).await.is_none());
    until("it is sent", SOON, || proxy.count("getChildren2") > 0).await;
    sleep(millis(150)).await;
    let node = children(&server, "/default/a").await.remove(0);
    proxy.cut().unwrap();
    let before = other.valid_until();
    until("the next connection is proved", SOON, || {
        other.valid_until() > before
    })
    .await;
    delete(&server, &format!("/default/a/{node}")).await;
    let next = hold(&third, "a").await;
    if let Ok(Ok(guard)) = timeout(TTL, acquiring).await {
        assert!(
            guard.check().is_err() || next.check().is_err(),
            "two guards are held"
        );
    }
}

/// Handshakes whose answers are lost prolong a session, so a client stops in time.
#[tokio::test(flavor = "multi_thread")]
async fn x3_a_holder_that_gets_no_replies_is_succeeded_within_the_bound() {
    let _room = room().await;
    let server = server();
    let proxies: Vec<Proxy> = (0..3)
        .map(|_| Proxy::for_zookeeper(server.address()).unwrap())
        .collect();
    let addresses: Vec<String> = proxies.iter().map(Proxy::address).collect();
    let url = format!("zookeeper://{}", addresses.join(","));
    let owner = client_for(&url, LONG).await;
    let other = client_for(&server.url(), LONG).await;
    let guard = hold(&owner, "a").await;
    let waiter = acquire(&other, "a");
    waiting(&other, "a", 1).await;
    let before = guard.valid_until();
    until("it is proved", SOON, || guard.valid_until() > before).await;
    for proxy in &proxies {
        proxy.hold_replies();
    }
    // A reply that is under way arrives.
    sleep(millis(20)).await;
    let age = {
        let left = guard.valid_until().since(SystemClock.now());
        DriftBounds::DEFAULT.validity(LONG).saturating_sub(left)
    };
    let begun = Instant::now();
    let next = within("the waiter", 4 * LONG, waiter).await.unwrap();
    let took = begun.elapsed() + age;
    let bound = owner.capabilities().takeover.of(LONG, LONG);
    assert!(next.check().is_ok());
    assert!(
        took <= bound,
        "{took:?} after the last proof; the bound is {bound:?}"
    );
}

/// A lock outlives one broken connection even if every reply is late.
async fn one_cut_costs_nothing(ttl: Duration, delay: u64) {
    let _room = room().await;
    let server = server();
    let link = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = client_for(&link.url(), ttl).await;
    let guard = hold(&owner, "a").await;
    link.delay_replies(millis(delay));
    let held = async |what: &str| {
        let begun = Instant::now();
        while begun.elapsed() < 2 * ttl {
            let after = begun.elapsed();
            assert!(guard.check().is_ok(), "lost {after:?} after {what}");
            sleep(millis(20)).await;
        }
    };
    held("the replies came late").await;
    link.cut().unwrap();
    held("the cut").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_one_cut_costs_nothing_where_replies_are_110_ms_late() {
    one_cut_costs_nothing(TTL, 110).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_one_cut_costs_nothing_where_replies_are_600_ms_late() {
    one_cut_costs_nothing(LONG, 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_inspecting_is_not_cut_off_by_the_first_lock() {
    let _room = room().await;
    let server = server();
    let link = Proxy::for_zookeeper(server.address()).unwrap();
    let holder = client(&server.url()).await;
    let _held = hold(&holder, "a").await;
    for round in 0..4 {
        link.delay_replies(Duration::ZERO);
        let client = client(&link.url()).await;
        client.inspect(&name("a")).await.unwrap();
        link.delay_replies(millis(60));
        let (lock, inspected) = (client.lock(format!("b{round}")).unwrap(), name("a"));
        let (inspected, _) = tokio::join!(client.inspect(&inspected), lock.try_acquire());
        inspected.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_is_cancelled_leaves_no_connection() {
    let _room = room().await;
    let server = server();
    let link = Proxy::for_zookeeper(server.address()).unwrap();
    link.delay_replies(millis(120));
    for _ in 0..12 {
        let connecting = Client::builder(store(&link.url())).ttl(TTL).connect();
        assert!(timeout(millis(100), connecting).await.is_err());
    }
    link.delay_replies(Duration::ZERO);
    until("every connection is closed", SOON, || {
        link.connections_open() == 0
    })
    .await;
}

/// The client crate stops connecting after the time-out of the session that it asks for.
#[tokio::test(flavor = "multi_thread")]
async fn a1_a_client_connects_where_replies_are_late() {
    let _room = room().await;
    let server = server();
    let link = Proxy::for_zookeeper(server.address()).unwrap();
    link.delay_replies(millis(30));
    let begun = Instant::now();
    let client = client(&link.url()).await;
    let _ = hold(&client, "a").await.release().await;
    assert!(begun.elapsed() < SOON / 2);
}
