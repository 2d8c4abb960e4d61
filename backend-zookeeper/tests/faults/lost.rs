//! Replies that are lost after the server has done what was asked.

use tenure_core::{Release, error::ErrorKind};

use crate::common::{
    LONG, SOON, acquire, client, client_for, granted, hold, idle, room, server, until, waiting,
};
use tenure_test_servers::wire::{Command, Proxy};

#[tokio::test(flavor = "multi_thread")]
async fn a3_a4_an_acquire_whose_reply_is_lost_leaves_nothing() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = client_for(&proxy.url(), LONG).await;
    let other = client(&server.url()).await;
    // The session is there, and the parents.
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
        // Where it was looked for, the server had to catch up first: another one may lag behind.
        let of_lock = |command: &Command| command.argument(0) == "/default/a";
        let sent: Vec<Command> = proxy.commands().into_iter().filter(of_lock).collect();
        let names: Vec<&str> = sent.iter().map(|command| &*command.name).collect();
        let search = names.iter().rposition(|name| *name == "getChildren");
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
    for lost in ["sync", "exists", "sync", "getData"] {
        let before = proxy.replies_dropped();
        proxy.drop_reply_of_and_cut(lost);
        if lost == "getData" {
            // What a reconnection looks at.
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
