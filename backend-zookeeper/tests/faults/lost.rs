//! Replies that are lost after the server has carried out the request.

use tenure_core::{
    Release,
    backend::RenewalAnswers,
    error::ErrorKind,
    id::AttemptId,
    request::{Enqueued, Remove, Renewal, Renewed},
};
use tenure_test_servers::wire::{Command, Proxy};
use tokio::time::Instant;

use crate::common::{
    LONG, Raw, SOON, TTL, acquire, client, client_for, granted, hold, idle, name, room, server,
    until, waiting,
};
use crate::foreign::children;

#[tokio::test(flavor = "multi_thread")]
async fn a3_a4_an_acquire_whose_reply_is_lost_leaves_nothing() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = client_for(&proxy.url(), LONG).await;
    let other = client(&server.url()).await;
    // The session and the parent nodes exist.
    let _ = hold(&owner, "a").await.release().await;
    for round in 0..5 {
        let before = proxy.replies_dropped();
        proxy.reset();
        proxy.drop_reply_of_and_cut("create2");
        let error = owner.lock("a").unwrap().try_acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
        assert!(
            proxy.replies_dropped() > before,
            "round {round}: none was lost"
        );
        idle(&other, "a", SOON).await;
        // The server that is asked has to catch up first, because it may lag behind.
        let of_lock = |command: &Command| command.argument(0) == "/default/a";
        let sent: Vec<Command> = proxy.commands().into_iter().filter(of_lock).collect();
        let names: Vec<&str> = sent.iter().map(|command| &*command.name).collect();
        let search = names.iter().rposition(|name| *name == "getChildren2");
        assert!(
            search.is_some_and(|at| at > 0 && names[at - 1] == "sync"),
            "{names:?}"
        );
        let _ = hold(&other, "a").await.release().await;
    }
    let guard = granted("it recovers", SOON, acquire(&owner, "a")).await;
    assert!(guard.check().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_release_whose_reply_is_lost_is_found_out() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = client_for(&proxy.url(), LONG).await;
    let other = client(&server.url()).await;
    for _ in 0..3 {
        let guard = hold(&owner, "a").await;
        proxy.drop_reply_of_and_cut("delete");
        let mut released = guard.release().await;
        for _ in 0..50 {
            if matches!(released, Release::Released) {
                break;
            }
            assert!(matches!(released, Release::Unknown(_)), "{released:?}");
            released = guard.release().await;
        }
        assert!(matches!(released, Release::Released), "{released:?}");
        idle(&other, "a", SOON).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_heartbeats_and_lists_whose_replies_are_lost_cost_no_lock_and_no_place() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = client_for(&proxy.url(), LONG).await;
    let other = client(&server.url()).await;
    let guard = hold(&owner, "held").await;
    let blocking = hold(&other, "waited for").await;
    let waiter = acquire(&owner, "waited for");
    waiting(&other, "waited for", 1).await;
    let place = other.inspect(blocking.name()).await.unwrap().queue[0].attempt;
    for lost in ["sync", "exists", "sync", "multiRead"] {
        let before = proxy.replies_dropped();
        proxy.drop_reply_of_and_cut(lost);
        if lost == "multiRead" {
            // A reconnection reads the queue again.
            proxy.cut().unwrap();
        }
        until("a reply is lost", SOON, || proxy.replies_dropped() > before).await;
        let deadline = guard.valid_until();
        until("it is proved again", SOON, || {
            assert!(guard.check().is_ok(), "a lost {lost} cost the lock");
            guard.valid_until() > deadline
        })
        .await;
    }
    let queue = other.inspect(blocking.name()).await.unwrap().queue;
    assert_eq!(queue[0].attempt, place, "the place in the queue is another");
    let _ = blocking.release().await;
    let _ = granted("the waiter", SOON, waiter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a2_t3_an_attempt_that_is_asked_for_again_has_one_node() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let raw = Raw::connect(&proxy.url()).await;
    // The parent nodes exist.
    let other = client(&server.url()).await;
    let _ = hold(&other, "a").await.release().await;
    let attempt = AttemptId::random().unwrap();
    proxy.drop_reply_of_and_cut("create2");
    let first = raw.backend.enqueue(Raw::enqueue("a", attempt)).await;
    assert_eq!(first.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    let begun = Instant::now();
    let again = loop {
        match raw.backend.enqueue(Raw::enqueue("a", attempt)).await {
            Ok(again) => break again,
            Err(error) => assert!(begun.elapsed() < SOON, "{error}"),
        }
    };
    assert!(matches!(again, Enqueued::Granted(_)), "{again:?}");
    assert_eq!(children(&server, "/default/a").await.len(), 1);
    // After a removal with an unknown outcome the attempt never comes back.
    let removal = Remove::new(name("a"), attempt, TTL, false);
    raw.backend.remove(removal).await.unwrap();
    let late = raw.backend.enqueue(Raw::enqueue("a", attempt)).await;
    assert_eq!(late.unwrap(), Enqueued::Gone);
    assert_eq!(children(&server, "/default/a").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn x3_a_lock_that_is_not_renewed_lapses_while_its_process_lives() {
    let _room = room().await;
    let server = server();
    let raw = Raw::connect(&server.url()).await;
    let attempt = AttemptId::random().unwrap();
    let entered = raw.backend.enqueue(Raw::enqueue("a", attempt)).await;
    assert!(matches!(entered.unwrap(), Enqueued::Granted(_)));
    let other = client_for(&server.url(), LONG).await;
    let _ = granted("what nobody renews", SOON, acquire(&other, "a")).await;
}

/// A connection that the client abandons must not end its session: the lock would be free before its
/// TTL is over.
#[tokio::test(flavor = "multi_thread")]
async fn x3_a_session_that_is_left_to_expire_is_not_closed() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    for round in 0..5 {
        let raw = Raw::connect(&proxy.url()).await;
        let lock = format!("a{round}");
        raw.hold(&lock).await;
        proxy.reset();
        // Without renewals the client leaves the connection.
        until("it is left", SOON, || proxy.connections_open() == 0).await;
        assert_eq!(proxy.count("closeSession"), 0, "round {round}");
        let left = children(&server, &format!("/default/{lock}")).await;
        assert_eq!(left.len(), 1, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a2_an_attempt_whose_session_has_ended_is_gone() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let raw = Raw::connect(&proxy.url()).await;
    let attempt = AttemptId::random().unwrap();
    let request = Raw::enqueue("a", attempt);
    let entered = raw.backend.enqueue(request.clone()).await;
    assert!(matches!(entered.unwrap(), Enqueued::Granted(_)));
    proxy.refuse(true).unwrap();
    proxy.cut().unwrap();
    let begun = Instant::now();
    loop {
        let renewal = Renewal::new(name("a"), attempt, TTL, None);
        let renewed =
            RenewalAnswers::collect(1, |answers| raw.backend.renew(vec![renewal], answers));
        if let [Renewed::Gone(_)] = renewed.await[..] {
            break;
        }
        assert!(begun.elapsed() < SOON, "the session does not end");
    }
    proxy.refuse(false).unwrap();
    let again = raw.backend.enqueue(request).await;
    assert_eq!(again.unwrap(), Enqueued::Gone);
}
