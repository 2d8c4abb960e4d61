//! How many round trips each step takes, counted on the wire.

use tenure_core::{Guard, Release, request::List};
use tenure_test_servers::wire::Proxy;
use tokio::time::Instant;

use crate::common::{
    LONG, SOON, acquire, client, client_for, granted, hold, millis, room, server, until, waiting,
};

/// What was sent for locks, in order: not what goes on by itself.
fn names(proxy: &Proxy) -> Vec<String> {
    proxy
        .commands()
        .into_iter()
        .filter(|command| {
            let beat = command.name == "sync" || command.name == "ping";
            let root = command.name == "exists" && command.argument(0) == "/";
            !beat && !root
        })
        .map(|command| command.name)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_a_free_lock_and_giving_it_back_is_one_round_trip_each() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = client_for(&proxy.url(), LONG).await;
    let _ = hold(&client, "a").await.release().await;
    for round in 0..3 {
        // With the replies held, both requests can be there only if they were sent together.
        proxy.reset();
        proxy.hold_replies();
        let lock = client.lock("a").unwrap();
        let task = tokio::spawn(async move { lock.acquire().await.unwrap() });
        // The watch of a node before may come late.
        let asked = || {
            let sent = names(&proxy).into_iter();
            sent.filter(|name| name != "getData").collect::<Vec<_>>()
        };
        until("both are sent", SOON, || asked().len() == 2).await;
        assert_eq!(asked(), ["create2", "getChildren"], "round {round}");
        proxy.release_replies();
        let guard = granted("acquire", SOON, task).await;
        // The watch of the own node comes later, and nobody waits for it.
        until("the watch", SOON, || names(&proxy).len() >= 3).await;
        proxy.reset();
        assert!(matches!(guard.release().await, Release::Released));
        assert_eq!(names(&proxy), ["delete"], "round {round}");
    }
    assert_eq!(proxy.connections_unreadable(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_the_next_holder_needs_no_round_trip_after_the_message() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let first = client(&server.url()).await;
    let second = client_for(&proxy.url(), LONG).await;
    let _ = hold(&second, "a").await.release().await;
    let guard = hold(&first, "a").await;
    proxy.reset();
    let waiter = acquire(&second, "a");
    waiting(&first, "a", 1).await;
    until("it watches", SOON, || names(&proxy).len() >= 4).await;
    // The one ahead, and its own node.
    let sent = names(&proxy);
    assert_eq!(sent, ["create2", "getChildren", "getData", "getData"]);
    // Past the enqueue's answer, then nothing that it sends can be what gives it the lock.
    tokio::time::sleep(millis(100)).await;
    proxy.hold_requests();
    let _ = guard.release().await;
    let guard = granted("the message makes it the holder", SOON, waiter).await;
    assert!(guard.check().is_ok());
    proxy.release_requests();
}

/// Those of one client watch their own nodes, and nobody watches one of another.
#[tokio::test(flavor = "multi_thread")]
async fn w2_waiters_of_one_client_hand_over_without_a_request() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = client_for(&proxy.url(), LONG).await;
    let looker = client_for(&server.url(), LONG).await;
    let _ = hold(&client, "warm").await.release().await;
    let mut guard = hold(&client, "a").await;
    until("its watch", SOON, || {
        names(&proxy).contains(&"getData".to_owned())
    })
    .await;
    let mut waiters = Vec::new();
    for count in 1..=5 {
        let mut expected = vec!["create2", "getChildren", "getData"];
        if count > 2 {
            // Whom it stands behind is told by its number.
            expected.remove(1);
        }
        proxy.reset();
        waiters.push(acquire(&client, "a"));
        waiting(&looker, "a", count).await;
        until("its own watch", SOON, || {
            names(&proxy).len() >= expected.len()
        })
        .await;
        tokio::time::sleep(millis(50)).await;
        assert_eq!(names(&proxy), expected, "waiter {count}");
    }
    for waiter in waiters {
        proxy.reset();
        assert!(matches!(guard.release().await, Release::Released));
        guard = granted("the next one", SOON, waiter).await;
        assert_eq!(names(&proxy), ["delete"]);
    }
    assert!(guard.check().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn w1_who_stands_between_two_of_one_client_has_its_turn_between_them() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = client_for(&proxy.url(), LONG).await;
    let other = client_for(&server.url(), LONG).await;
    let mut guard = hold(&client, "a").await;
    let mut waiters = Vec::new();
    for (count, who) in (1..).zip([&client, &client, &other, &client, &client]) {
        proxy.reset();
        waiters.push(acquire(who, "a"));
        waiting(&other, "a", count).await;
        let listed = || names(&proxy).contains(&"getChildren".to_owned());
        if count == 4 {
            until("its number does not follow, so it asks", SOON, listed).await;
        }
    }
    for waiter in waiters {
        let token = guard.token();
        tokio::time::sleep(millis(50)).await;
        assert!(!waiter.is_finished(), "it is not its turn");
        assert!(matches!(guard.release().await, Release::Released));
        guard = granted("the next one", SOON, waiter).await;
        assert!(guard.token() > token);
    }
    assert!(guard.check().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_a_release_waits_for_the_server() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = client_for(&proxy.url(), LONG).await;
    let guard = hold(&client, "a").await;
    proxy.reset();
    proxy.hold_replies();
    let mut release = tokio::spawn(async move { guard.release().await });
    until("it is sent", SOON, || proxy.count("delete") == 1).await;
    let early = tokio::time::timeout(millis(100), &mut release).await;
    assert!(early.is_err(), "not acknowledged, and yet {early:?}");
    proxy.release_replies();
    assert!(matches!(release.await.unwrap(), Release::Released));
}

#[tokio::test(flavor = "multi_thread")]
async fn w3_a_release_wakes_the_next_waiter_alone() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let first = client_for(&server.url(), LONG).await;
    let last = client_for(&proxy.url(), LONG).await;
    for round in 0..5 {
        let guard = hold(&first, "a").await;
        let second = acquire(&first, "a");
        waiting(&first, "a", 1).await;
        let (connections, begun) = (proxy.connections_made(), Instant::now());
        proxy.reset();
        let third = acquire(&last, "a");
        waiting(&first, "a", 2).await;
        // The ones ahead, the first of which is shown, and its own node.
        until("it watches", SOON, || {
            names(&proxy)
                .iter()
                .filter(|name| *name == "getData")
                .count()
                >= 3
        })
        .await;
        proxy.reset();
        assert!(matches!(guard.release().await, Release::Released));
        let second = granted("the second", SOON, second).await;
        tokio::time::sleep(millis(100)).await;
        let sent = names(&proxy);
        // With a connection or a report that comes in between, others are looked at.
        let undisturbed = proxy.connections_made() == connections && begun.elapsed() < LONG / 4;
        assert!(!third.is_finished());
        assert!(matches!(second.release().await, Release::Released));
        let third = granted("the third", SOON, third).await;
        assert!(matches!(third.release().await, Release::Released));
        if undisturbed {
            assert_eq!(sent, Vec::<String>::new(), "the third was woken");
            return;
        }
        assert!(round < 4, "the machine is too busy to show anything");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k1_a_thousand_locks_cost_the_requests_of_one() {
    const LOCKS: usize = 1000;
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = client_for(&proxy.url(), LONG).await;
    let mut guards = Vec::new();
    for lock in 0..LOCKS {
        guards.push(hold(&client, &format!("lock {lock}")).await);
    }
    let mut trials = 0;
    loop {
        // The last ones' watches.
        tokio::time::sleep(millis(200)).await;
        let connections = proxy.connections_made();
        proxy.reset();
        let begun = Instant::now();
        let before: Vec<_> = guards.iter().map(Guard::valid_until).collect();
        until("all are renewed", SOON, || {
            let mut pairs = guards.iter().zip(&before);
            pairs.all(|(guard, before)| guard.valid_until() > *before)
        })
        .await;
        let elapsed = begun.elapsed();
        let (sent, others) = (proxy.commands(), names(&proxy));
        if proxy.connections_made() > connections {
            // The machine was so busy that the server seemed silent: everything is looked at again.
            trials += 1;
            assert!(trials < 5, "no connection lasts");
            continue;
        }
        assert!(others.is_empty(), "renewals sent {others:?}");
        // A heartbeat is two requests, no more often than every 0.6 ticks.
        let beats = usize::try_from(elapsed.as_millis() / 60).unwrap() + 2;
        assert!(sent.len() <= 2 * beats, "{} requests", sent.len());
        break;
    }
    assert!(guards.iter().all(|guard| guard.check().is_ok()));
    let listed = client.list(List::new("lock", 2000)).await.unwrap();
    assert_eq!(listed.locks.len(), LOCKS);
    assert!(proxy.connections_open() <= 2);
}
