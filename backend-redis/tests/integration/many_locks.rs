//! Many locks and many waiters of one client share their requests (K1).

use std::{collections::HashMap, time::Duration};

use tenure_core::Guard;
use tenure_test_servers::{redis::Server, wire::Proxy};
use tokio::{sync::mpsc, time::Instant};

use crate::common::{
    OPERATION_TIMEOUT, client, hold, hold_all, name, queue_length, seconds, wait_until, within,
};

const LOCKS: usize = 10_000;
/// The number of requests that renew all locks within a third of a TTL.
const MAX_REQUESTS: u64 = 100;
/// Locks acquired at different times are renewed in different rounds, and each round may end with a
/// partly filled request. This is the number of such requests at the slowest rate of acquiring that
/// the test accepts.
const MAX_EXTRA_COMMANDS: u64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn k1_ten_thousand_locks_renew_with_a_hundred_requests_per_third_of_a_ttl() {
    const TTL: Duration = seconds(60);
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let client = client(&proxy.url(), TTL).await;
    let names: Vec<String> = (0..LOCKS).map(|index| format!("lock {index}")).collect();
    let begun = Instant::now();
    let guards = hold_all(&client, &names).await;
    assert!(
        begun.elapsed() < TTL / 3,
        "the machine is too busy for this test"
    );
    // Until each lock has been renewed once, locks are renewed together only with those acquired at
    // the same time.
    let deadlines = |guards: &[Guard]| guards.iter().map(Guard::valid_until).collect::<Vec<_>>();
    let first = deadlines(&guards);
    wait_until("each lock is renewed once", TTL, || {
        let now = guards.iter().map(Guard::valid_until);
        now.zip(&first).all(|(now, first)| now > *first)
    })
    .await;

    proxy.reset();
    let begun = Instant::now();
    let second = deadlines(&guards);
    wait_until("each lock is renewed once more", TTL, || {
        let now = guards.iter().map(Guard::valid_until);
        now.zip(&second).all(|(now, second)| now > *second)
    })
    .await;
    assert!(
        begun.elapsed() < TTL / 2,
        "a third of a TTL, and some slack"
    );
    assert!(guards.iter().all(|guard| guard.check().is_ok()));
    let commands = proxy.commands();
    assert!(commands.iter().all(|command| command.name == "EVALSHA"));
    assert!(
        proxy.requests() <= MAX_REQUESTS,
        "{} writes",
        proxy.requests()
    );
    assert!(
        commands.len() as u64 <= MAX_REQUESTS + MAX_EXTRA_COMMANDS,
        "{} commands",
        commands.len()
    );
    assert_eq!(proxy.connections_made(), 1);
    assert_eq!(proxy.connections_unreadable(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn k1_a_thousand_waiters_use_one_connection_and_one_subscription() {
    const WAITERS: usize = 1_000;
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let client = client(&proxy.url(), seconds(30)).await;
    let holder = hold(&client, "a").await;
    let (grants, mut received_grants) = mpsc::unbounded_channel();
    let lock = client.lock("a").unwrap();
    let waiters: Vec<_> = (0..WAITERS)
        .map(|_| {
            let (lock, grants) = (lock.clone(), grants.clone());
            tokio::spawn(async move {
                let guard = lock.acquire().await.unwrap();
                guard.check().unwrap();
                grants.send((guard.attempt(), guard.token())).unwrap();
                let _ = guard.release().await;
            })
        })
        .collect();
    wait_until("all waiters are queued", OPERATION_TIMEOUT, || {
        queue_length(&server, "a") == WAITERS
    })
    .await;

    assert_eq!(proxy.connections_made(), 1);
    // The test's own connections use the Unix socket.
    let list = server.text(&["CLIENT", "LIST"]).unwrap();
    let by_tcp = list.lines().filter(|line| line.contains("addr=127.0.0.1:"));
    assert_eq!(by_tcp.count(), 1, "{list}");
    let channels = server.text(&["PUBSUB", "CHANNELS"]).unwrap();
    assert_eq!(channels.lines().count(), 1, "{channels}");
    let subscribers = server.text(&["PUBSUB", "NUMSUB", &channels]).unwrap();
    assert_eq!(subscribers.lines().nth(1), Some("1"));

    let queue = client.inspect(&name("a")).await.unwrap().queue;
    let since = queue.iter().map(|waiter| waiter.since.unwrap());
    assert!(since.is_sorted(), "w1: the queue is in enqueueing order");
    let places: HashMap<_, _> = queue
        .iter()
        .map(|waiter| waiter.attempt.unwrap())
        .zip(0..)
        .collect();
    assert_eq!(places.len(), WAITERS);
    let mut token = holder.token();
    let _ = holder.release().await;
    for turn in 0..WAITERS {
        let next = within(
            "the next waiter is granted",
            seconds(60),
            received_grants.recv(),
        )
        .await;
        let (attempt, next) = next.unwrap();
        assert_eq!(places[&attempt], turn, "w1");
        assert!(next > token, "t1");
        token = next;
    }
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(proxy.connections_made(), 1);
}
