//! The cost of shared and counted locks: the requests of each operation, and the waiters that a release wakes.

use tenure_core::{Acquisition, Guard, mode::Mode};
use tenure_test_servers::{etcd::Server, wire::Proxy};
use tokio::time::sleep;

use crate::{
    common::{
        WAIT_LIMIT, acquire_free, client, expect_granted, millis, seconds, wait_for_waiters,
        wait_until,
    },
    modes::{TTL, counts, now, permits, reader, release, soon, try_now, wait_at, writer},
};

/// The requests of a client, without the watch stream.
fn calls(proxy: &Proxy) -> Vec<String> {
    let commands = proxy.commands().into_iter();
    let names = commands.map(|command| command.name);
    names.filter(|name| !name.starts_with("Watch")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn m2_free_shared_lock_takes_the_round_trips_of_an_exclusive_one() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (one, two) = (
        client(&proxy.url(), TTL).await,
        client(&server.url(), TTL).await,
    );
    release(acquire_free(&one, "lease").await).await;
    let modes = [Mode::Shared, Mode::permits(1, 2).unwrap()];
    for mode in modes {
        let lock = one.lock("a").unwrap().mode(mode);
        for waits in [true, false] {
            proxy.reset();
            let guard = if waits {
                now(lock.clone()).await
            } else {
                try_now(&lock).await.unwrap()
            };
            assert_eq!(calls(&proxy), ["Txn"], "{mode}");
            proxy.reset();
            release(guard).await;
            assert_eq!(calls(&proxy), ["Txn"], "{mode}");
        }
        // Beside another holder.
        let other = now(two.lock("a").unwrap().mode(mode)).await;
        proxy.reset();
        let guard = now(lock.clone()).await;
        assert_eq!(calls(&proxy), ["Txn"], "{mode}");
        release(guard).await;
        proxy.reset();
        let guard = try_now(&lock).await.unwrap();
        assert_eq!(
            calls(&proxy),
            ["Txn", "Txn"],
            "{mode}: a try reads before it writes"
        );
        release(guard).await;
        release(other).await;
        // Busy.
        let other = now(writer(&two)).await;
        proxy.reset();
        let tried = lock.try_acquire().await.unwrap();
        let Acquisition::Busy(holder) = tried else {
            panic!("X1: {tried:?}");
        };
        assert_eq!(holder.attempt, Some(other.attempt()));
        assert_eq!(
            calls(&proxy),
            ["Txn"],
            "{mode}: a try that is busy writes nothing"
        );
        release(other).await;
    }
    let writing = now(writer(&one)).await;
    proxy.reset();
    let reading = writing.downgrade().await.unwrap();
    assert_eq!(calls(&proxy), ["Txn"], "a downgrade");
    release(reading).await;
    assert_eq!(proxy.connections_unreadable(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn w3_one_release_admits_many_readers_with_one_transaction_each() {
    const READERS: usize = 100;
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (one, two) = (
        client(&proxy.url(), TTL).await,
        client(&server.url(), TTL).await,
    );
    release(acquire_free(&one, "lease").await).await;
    let writing = now(writer(&two)).await;
    let next = wait_at(1, writer(&two), &two).await;
    let mut readers: Vec<_> = (0..READERS)
        .map(|_| {
            let lock = reader(&one);
            tokio::spawn(async move { lock.acquire().await.unwrap() })
        })
        .collect();
    wait_for_waiters(&two, "a", READERS + 1).await;
    let last = wait_at(READERS + 2, writer(&two), &two).await;
    let watched = || proxy.count("Watch.message") >= READERS;
    wait_until("all readers watch", WAIT_LIMIT, watched).await;
    // The reads that follow the creation of a watch.
    sleep(millis(500)).await;
    proxy.reset();
    release(writing).await;
    let next = soon("the next writer", next).await;
    sleep(millis(300)).await;
    assert_eq!(
        calls(&proxy),
        Vec::<String>::new(),
        "W3: the turn of a writer"
    );
    release(next).await;
    let mut guards = Vec::new();
    for reader in readers.drain(..) {
        guards.push(soon("a reader", reader).await);
    }
    let sent = calls(&proxy);
    assert!(sent.iter().all(|call| call == "Txn"), "{sent:?}");
    assert_eq!(sent.len(), READERS, "W3");
    assert!(!last.is_finished());
    let floor = guards.iter().map(Guard::token).min().unwrap();
    assert!(guards.iter().all(|guard| guard.floor() == floor), "M3");
    for guard in guards {
        release(guard).await;
    }
    release(soon("the last writer", last).await).await;
}

/// A release wakes the first waiter for permits alone.
#[tokio::test(flavor = "multi_thread")]
async fn w3_release_of_a_permit_wakes_one_waiter_of_many() {
    const WAITERS: usize = 50;
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (one, two) = (
        client(&proxy.url(), TTL).await,
        client(&server.url(), TTL).await,
    );
    release(acquire_free(&one, "lease").await).await;
    let mut holders = Vec::new();
    for _ in 0..10 {
        holders.push(now(permits(&two, 1, 10)).await);
    }
    let mut waiters = Vec::new();
    for place in 1..=WAITERS {
        waiters.push(wait_at(place, permits(&one, 1, 10), &two).await);
    }
    sleep(millis(500)).await;
    for _ in 0..5 {
        proxy.reset();
        release(holders.swap_remove(holders.len() / 2)).await;
        let guard = soon("the first waiter", waiters.remove(0)).await;
        wait_until("its successor watches", WAIT_LIMIT, || {
            calls(&proxy).len() >= 3
        })
        .await;
        sleep(millis(200)).await;
        // The position of the new holder, its announcement, and the position of its successor; and the
        // read that follows a watch which was created late.
        let sent = calls(&proxy);
        assert!(sent.len() <= 4, "W3: {sent:?}");
        holders.push(guard);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k1_holders_and_waiters_of_one_name_share_their_renewals() {
    const HOLDERS: usize = 400;
    const WAITERS: usize = 100;
    let ttl = seconds(9);
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let one = client(&proxy.url(), ttl).await;
    let of = u32::try_from(HOLDERS).unwrap();
    let acquire = |count: usize| -> Vec<_> {
        let spawn = |_| {
            let lock = permits(&one, 1, of);
            tokio::spawn(async move { lock.acquire().await.unwrap() })
        };
        (0..count).map(spawn).collect()
    };
    let mut guards = Vec::new();
    for task in acquire(HOLDERS) {
        guards.push(expect_granted("a permit", WAIT_LIMIT * 2, task).await);
    }
    let waiters = acquire(WAITERS);
    wait_for_waiters(&one, "a", WAITERS).await;
    sleep(seconds(1)).await;
    proxy.reset();
    sleep(ttl).await;
    let (txns, reads) = (proxy.count("Txn"), proxy.count("Range"));
    assert!(
        txns <= 60 && reads <= 30,
        "K1: {txns} transactions, {reads} reads"
    );
    assert!(guards.iter().all(|guard| guard.check().is_ok()));
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    // The waiters came in any order.
    for guard in guards.drain(..WAITERS) {
        release(guard).await;
    }
    for waiter in waiters {
        guards.push(soon("each waiter", waiter).await);
    }
    assert_eq!(counts(&one).await, (HOLDERS, 0));
}
