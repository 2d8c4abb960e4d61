//! The requests of each step, counted on the wire.

use tenure_core::{Guard, Release, request::List};
use tenure_test_servers::wire::Proxy;
use tokio::time::Instant;

use crate::common::{
    LONG, SOON, acquire, client, client_for, granted, hold, millis, room, server, until, waiting,
};

/// The requests for locks, in order, without heartbeats.
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
async fn taking_a_free_lock_sends_two_requests_at_once_and_releasing_it_one() {
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
        // The watch of the previous node may be set late.
        let asked = || {
            let sent = names(&proxy).into_iter();
            sent.filter(|name| name != "exists").collect::<Vec<_>>()
        };
        until("both are sent", SOON, || asked().len() == 2).await;
        assert_eq!(asked(), ["create2", "getChildren2"], "round {round}");
        proxy.release_replies();
        let guard = granted("acquire", SOON, task).await;
        // The watch of the own node is set later, in the background.
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
    until("it watches", SOON, || names(&proxy).len() >= 5).await;
    // It watches its own node and the one in front, and reads the holder.
    let sent = names(&proxy);
    let expected = ["create2", "getChildren2", "exists", "exists", "multiRead"];
    assert_eq!(sent, expected);
    // After the enqueue's answer no request of the waiter can be what grants the lock.
    tokio::time::sleep(millis(100)).await;
    proxy.hold_requests();
    let _ = guard.release().await;
    let guard = granted("the message makes it the holder", SOON, waiter).await;
    assert!(guard.check().is_ok());
    proxy.release_requests();
}

/// Each waiter watches the node in front, also if that belongs to the same client.
#[tokio::test(flavor = "multi_thread")]
async fn w1_waiters_of_two_clients_have_their_turns_in_order() {
    let _room = room().await;
    let server = server();
    let client = client_for(&server.url(), LONG).await;
    let other = client_for(&server.url(), LONG).await;
    let mut guard = hold(&client, "a").await;
    let mut waiters = Vec::new();
    for (count, owner) in (1..).zip([&client, &client, &other, &client, &client]) {
        waiters.push(acquire(owner, "a"));
        waiting(&other, "a", count).await;
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

/// A waiter that had more than one contender ahead reads the queue before its turn, so that the turn itself
/// takes no request.
#[tokio::test(flavor = "multi_thread")]
async fn w2_a_waiter_further_back_reads_the_queue_once_before_its_turn() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let others = client_for(&server.url(), LONG).await;
    let last = client_for(&proxy.url(), LONG).await;
    let _ = hold(&last, "warm").await.release().await;
    let guard = hold(&others, "a").await;
    let second = acquire(&others, "a");
    waiting(&others, "a", 1).await;
    let third = acquire(&last, "a");
    waiting(&others, "a", 2).await;
    until("it watches", SOON, || proxy.count("multiRead") == 1).await;
    // The watches are set once their answers have arrived.
    tokio::time::sleep(millis(200)).await;
    proxy.reset();
    assert!(matches!(guard.release().await, Release::Released));
    let second = granted("the second", SOON, second).await;
    until("it prepares its turn", SOON, || {
        proxy.count("multiRead") == 1
    })
    .await;
    tokio::time::sleep(millis(200)).await;
    // A report of the waiter may ask in between whether the node in front is still there.
    let sent = || {
        let sent = names(&proxy).into_iter();
        sent.filter(|name| name != "exists").collect::<Vec<_>>()
    };
    assert_eq!(sent(), ["getChildren2", "multiRead"]);
    assert!(!third.is_finished());
    proxy.reset();
    assert!(matches!(second.release().await, Release::Released));
    let third = granted("the third", SOON, third).await;
    assert_eq!(sent(), Vec::<String>::new(), "the turn took a request");
    assert!(third.check().is_ok());
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

/// The next waiter is granted the lock, and the one behind it prepares its turn. All others get no event.
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
        let third = acquire(&first, "a");
        waiting(&first, "a", 2).await;
        let (connections, begun) = (proxy.connections_made(), Instant::now());
        proxy.reset();
        let fourth = acquire(&last, "a");
        waiting(&first, "a", 3).await;
        until("it watches", SOON, || {
            names(&proxy).contains(&"multiRead".to_owned())
        })
        .await;
        proxy.reset();
        assert!(matches!(guard.release().await, Release::Released));
        let second = granted("the second", SOON, second).await;
        tokio::time::sleep(millis(100)).await;
        let sent = names(&proxy);
        // A reconnection or a report in between sends requests of its own.
        let undisturbed = proxy.connections_made() == connections && begun.elapsed() < LONG / 4;
        assert!(!third.is_finished() && !fourth.is_finished());
        assert!(matches!(second.release().await, Release::Released));
        let third = granted("the third", SOON, third).await;
        assert!(matches!(third.release().await, Release::Released));
        let fourth = granted("the fourth", SOON, fourth).await;
        assert!(matches!(fourth.release().await, Release::Released));
        if undisturbed {
            assert_eq!(sent, Vec::<String>::new(), "the fourth got an event");
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
        // The watches of the last locks are being set.
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
            // On a busy machine the server seemed silent, and every node was looked up again.
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
    assert_eq!(proxy.connections_open(), 1);
}
