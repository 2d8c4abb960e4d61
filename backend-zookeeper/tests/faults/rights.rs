//! Missing rights, and rights that change while locks are held.

use tenure_core::{error::ErrorKind, lease::Phase};
use tenure_test_servers::wire::Proxy;

use crate::{
    common::{
        LONG, SOON, TTL, acquire, client, client_for, granted, hold, room, server, until, waiting,
    },
    foreign::{ALL, DELETE, READ, children, contend, grant, make},
};

#[tokio::test(flavor = "multi_thread")]
async fn a4_a_lock_that_may_be_entered_and_not_read_keeps_nothing_of_an_acquire() {
    let _room = room().await;
    let server = server();
    make(&server, "/default", ALL).await;
    make(&server, "/default/a", ALL & !READ).await;
    let owner = client_for(&server.url(), LONG).await;
    // Another lock, which keeps the session alive.
    let guard = hold(&owner, "other").await;
    for wait in [false, true] {
        let lock = owner.lock("a").unwrap();
        let error = if wait {
            lock.acquire().await.map(|_| ()).unwrap_err()
        } else {
            lock.try_acquire().await.map(|_| ()).unwrap_err()
        };
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        let until = guard.valid_until() + TTL;
        crate::common::until("a TTL passes", SOON, || guard.valid_until() > until).await;
        grant(&server, "/default/a", ALL).await;
        let left = children(&server, "/default/a").await;
        assert_eq!(left, Vec::<String>::new(), "wait: {wait}");
        grant(&server, "/default/a", ALL & !READ).await;
    }
}

/// A node becomes unreadable for this client while it holds another lock.
async fn a_closed_node_costs_no_other_lock(own: bool) {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = client_for(&proxy.url(), LONG).await;
    let guard = hold(&owner, "held").await;
    let mut kept = None;
    let mut waiter = None;
    let closed = if own {
        kept = Some(hold(&owner, "b").await);
        let name = children(&server, "/default/b").await.remove(0);
        format!("/default/b/{name}")
    } else {
        make(&server, "/default/b", ALL).await;
        let node = contend(&server, "/default/b").await;
        waiter = Some(acquire(&owner, "b"));
        waiting(&client(&server.url()).await, "b", 1).await;
        node
    };
    grant(&server, &closed, ALL & !READ).await;
    proxy.cut().unwrap();
    let enough = guard.valid_until() + TTL;
    until("it is held for a TTL more", SOON, || {
        assert!(guard.check().is_ok(), "a node of another lock cost it");
        guard.phase() == Phase::Held && guard.valid_until() > enough
    })
    .await;
    if let Some(kept) = kept {
        assert!(kept.check().is_ok(), "nobody has taken it away");
    }
    if let Some(waiter) = waiter {
        assert!(!waiter.is_finished());
        crate::foreign::delete(&server, &closed).await;
        let _ = granted("the waiter", 2 * LONG, waiter).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_a_node_ahead_that_may_not_be_read_any_more_costs_no_other_lock() {
    a_closed_node_costs_no_other_lock(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_an_own_node_that_may_not_be_read_any_more_costs_no_lock() {
    a_closed_node_costs_no_other_lock(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_waiter_behind_a_node_that_may_not_be_read_any_more_is_woken() {
    let _room = room().await;
    let server = server();
    make(&server, "/default", ALL).await;
    make(&server, "/default/b", ALL).await;
    let node = contend(&server, "/default/b").await;
    let owner = client(&server.url()).await;
    let waiter = acquire(&owner, "b");
    waiting(&client(&server.url()).await, "b", 1).await;
    grant(&server, &node, ALL & !READ).await;
    crate::foreign::delete(&server, &node).await;
    let _ = granted("the waiter", 3 * TTL, waiter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_release_that_was_forbidden_for_a_while_leaves_nothing() {
    let _room = room().await;
    let server = server();
    let owner = client_for(&server.url(), LONG).await;
    // Another lock, which keeps the session alive.
    let guard = hold(&owner, "other").await;
    let forbidden = hold(&owner, "a").await;
    grant(&server, "/default/a", ALL & !DELETE).await;
    drop(forbidden);
    let enough = guard.valid_until() + TTL;
    until("a while", SOON, || guard.valid_until() > enough).await;
    assert_eq!(children(&server, "/default/a").await.len(), 1);
    grant(&server, "/default/a", ALL).await;
    let other = client(&server.url()).await;
    let waiter = acquire(&other, "a");
    let _ = granted("the next one", 2 * LONG, waiter).await;
}
