//! Locks that several hold: readers and writers, and permits (clauses M1 to M3).

use std::time::Duration;

use tenure_core::{
    Acquisition, Client, Guard, Lock, Release,
    mode::Mode,
    request::{Evicted, List, LockState},
};
use tenure_test_servers::wire::Proxy;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    common::{
        BOUND, LONG, SOON, TTL, acquire, client, client_for, granted, hold, idle, millis, name,
        room, server, until, waiting, waiting_within, within,
    },
    foreign::children,
};

/// An attempt that is not granted the lock after this time waits.
pub(crate) const MOMENT: Duration = millis(150);

pub(crate) fn reader(client: &Client) -> Lock {
    client.rw_lock("a").unwrap().read()
}

pub(crate) fn writer(client: &Client) -> Lock {
    client.rw_lock("a").unwrap().write()
}

pub(crate) fn permits(client: &Client, take: u32, of: u32) -> Lock {
    client.semaphore("a", of).unwrap().permits(take).unwrap()
}

/// Acquires in a task of its own.
pub(crate) fn start(lock: Lock) -> JoinHandle<Guard> {
    tokio::spawn(async move { lock.acquire().await.unwrap() })
}

/// Acquires a lock that nothing ahead excludes.
pub(crate) async fn take(lock: Lock) -> Guard {
    granted("acquire", SOON, start(lock)).await
}

/// Begins to wait, as the waiter with this number.
pub(crate) async fn wait(looker: &Client, lock: Lock, number: usize) -> JoinHandle<Guard> {
    let waiter = start(lock);
    waiting(looker, "a", number).await;
    waiter
}

pub(crate) async fn release(guard: Guard) {
    assert!(matches!(guard.release().await, Release::Released));
}

/// The lock, once it has so many holders and waiters.
pub(crate) async fn shows(looker: &Client, holders: usize, waiters: usize) -> LockState {
    let begun = Instant::now();
    loop {
        let state = looker.inspect(&name("a")).await;
        if let Ok(state) = &state
            && (state.holders().count(), state.queue.len()) == (holders, waiters)
        {
            return state.clone();
        }
        assert!(begun.elapsed() < SOON, "{state:?}");
        sleep(millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn m1_m2_m3_readers_share_the_lock_and_a_writer_excludes_them_in_order() {
    let _room = room().await;
    let server = server();
    let (client, other) = (
        client_for(&server.url(), LONG).await,
        client_for(&server.url(), LONG).await,
    );
    let first = take(reader(&client)).await;
    let second = take(reader(&other)).await;
    let third = take(reader(&client)).await;
    assert!(first.token() < second.token() && second.token() < third.token());
    for guard in [&first, &second, &third] {
        assert_eq!((guard.floor(), guard.mode()), (first.token(), Mode::Shared));
    }
    let writing = wait(&client, writer(&other), 1).await;
    // A reader behind the waiting writer waits, and so does a lock of no kind in particular.
    let late = wait(&client, reader(&client), 2).await;
    let plain = acquire(&other, "a");
    waiting(&client, "a", 3).await;
    let tried = reader(&client).try_acquire().await.unwrap();
    let Acquisition::Busy(holder) = tried else {
        panic!("a reader overtakes a writer: {tried:?}");
    };
    assert_eq!(
        (holder.token, holder.mode),
        (Some(first.token()), Mode::Shared)
    );
    let state = shows(&client, 3, 3).await;
    let modes: Vec<Mode> = state.queue.iter().map(|waiter| waiter.mode).collect();
    assert_eq!(modes, [Mode::Exclusive, Mode::Shared, Mode::Exclusive]);
    let tokens: Vec<_> = state.holders().map(|holder| holder.token).collect();
    let expected = [&first, &second, &third].map(|guard| Some(guard.token()));
    assert_eq!(tokens, expected);
    // The writer has to wait for all of them, whatever their order.
    for guard in [second, first, third] {
        assert!(!writing.is_finished());
        release(guard).await;
    }
    let writing = granted("the writer", SOON, writing).await;
    assert_eq!(writing.floor(), writing.token());
    sleep(MOMENT).await;
    assert!(!late.is_finished() && !plain.is_finished());
    release(writing).await;
    let late = granted("the reader", SOON, late).await;
    assert_eq!(late.floor(), late.token());
    sleep(MOMENT).await;
    assert!(!plain.is_finished());
    release(late).await;
    release(granted("the plain lock", SOON, plain).await).await;
    idle(&client, "a", SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn m3_the_floor_is_the_lowest_live_token() {
    let _room = room().await;
    let server = server();
    let client = client_for(&server.url(), LONG).await;
    for lock in [reader, |client: &Client| permits(client, 1, 9)] {
        let first = take(lock(&client)).await;
        let second = take(lock(&client)).await;
        assert_eq!(second.floor(), first.token());
        release(first).await;
        let tried = lock(&client).try_acquire().await.unwrap();
        let Acquisition::Acquired(third) = tried else {
            panic!("{tried:?}");
        };
        assert_eq!(third.floor(), second.token());
        release(second).await;
        assert_eq!(take(lock(&client)).await.floor(), third.token());
        drop(third);
        idle(&client, "a", SOON).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn m1_m2_m6_permits_are_counted_in_order() {
    let _room = room().await;
    let server = server();
    let (client, other) = (
        client_for(&server.url(), LONG).await,
        client_for(&server.url(), LONG).await,
    );
    let two = take(permits(&client, 2, 4)).await;
    let one = take(permits(&other, 1, 4)).await;
    assert_eq!(one.mode(), Mode::Permits { take: 1, of: 4 });
    let page = client.list(List::new("", 9)).await.unwrap();
    assert_eq!((page.locks[0].holders, page.locks[0].waiters), (2, 0));
    // One permit is left. A request for two waits, and a request for one does not overtake it.
    let large = wait(&client, permits(&other, 2, 4), 1).await;
    let small = wait(&client, permits(&client, 1, 4), 2).await;
    // Another total, and other modes, exclude all of them.
    let other_total = wait(&client, permits(&other, 1, 5), 3).await;
    let reading = wait(&client, reader(&client), 4).await;
    let page = client.list(List::new("", 9)).await.unwrap();
    assert_eq!((page.locks[0].holders, page.locks[0].waiters), (2, 4));
    sleep(MOMENT).await;
    assert!(!large.is_finished() && !small.is_finished());
    release(one).await;
    let large = granted("two of four", SOON, large).await;
    assert_eq!(large.floor(), two.token());
    sleep(MOMENT).await;
    assert!(!small.is_finished(), "five of four are held");
    release(two).await;
    let small = granted("one of four", SOON, small).await;
    release(large).await;
    sleep(MOMENT).await;
    assert!(!other_total.is_finished() && !reading.is_finished());
    release(small).await;
    let other_total = granted("one of five", SOON, other_total).await;
    sleep(MOMENT).await;
    assert!(!reading.is_finished());
    release(other_total).await;
    release(granted("the reader", SOON, reading).await).await;
}

/// One of the many that one release admits does not wait for the others.
#[tokio::test(flavor = "multi_thread")]
async fn w2_one_release_admits_a_hundred_readers_with_one_listing_each() {
    const READERS: usize = 100;
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = client_for(&server.url(), LONG).await;
    let client = client_for(&proxy.url(), LONG).await;
    let _ = take(reader(&client)).await.release().await;
    for round in 0..5 {
        let writing = take(writer(&owner)).await;
        let readers: Vec<_> = (0..READERS).map(|_| start(reader(&client))).collect();
        waiting_within(BOUND, &owner, "a", READERS).await;
        until("all watch", SOON, || proxy.count("multiRead") >= READERS).await;
        sleep(millis(200)).await;
        let connections = proxy.connections_made();
        proxy.reset();
        release(writing).await;
        let mut guards = Vec::new();
        for reader in readers {
            guards.push(granted("a reader", SOON, reader).await);
        }
        let lists = proxy.count("getChildren2");
        shows(&owner, READERS, 0).await;
        let floor = guards.iter().map(Guard::token).min().unwrap();
        assert!(guards.iter().all(|guard| guard.floor() == floor));
        for guard in guards {
            release(guard).await;
        }
        if proxy.connections_made() == connections {
            assert!(lists <= READERS, "{lists} lists");
            return;
        }
        assert!(round < 4, "no connection lasts");
        proxy.reset();
    }
}

/// The waiter whose turn it is and the next one hear of a release, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn w3_a_release_of_permits_wakes_those_whose_turn_it_is_and_the_next_one() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let first = client_for(&server.url(), LONG).await;
    let last = client_for(&proxy.url(), LONG).await;
    for round in 0..5 {
        let begun = Instant::now();
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(take(permits(&first, 1, 3)).await);
        }
        let second = wait(&first, permits(&first, 1, 3), 1).await;
        let third = wait(&first, permits(&first, 1, 3), 2).await;
        let connections = proxy.connections_made();
        proxy.reset();
        let fourth = wait(&first, permits(&last, 1, 3), 3).await;
        let fifth = wait(&first, permits(&last, 1, 3), 4).await;
        until("both watch", SOON, || proxy.count("multiRead") == 2).await;
        sleep(millis(200)).await;
        proxy.reset();
        // The holder in the middle, which no waiter has directly ahead.
        release(held.remove(1)).await;
        held.push(granted("the second", SOON, second).await);
        assert!(!third.is_finished());
        sleep(MOMENT).await;
        let woken = proxy.count("getChildren2");
        // A report in between reads the queue, too.
        let undisturbed = proxy.connections_made() == connections && begun.elapsed() < LONG / 4;
        // Two at once: both are granted, in any order of releases.
        release(held.remove(0)).await;
        release(held.remove(0)).await;
        held.push(granted("the third", SOON, third).await);
        held.push(granted("the fourth", SOON, fourth).await);
        sleep(MOMENT).await;
        assert!(!fifth.is_finished());
        release(held.remove(0)).await;
        held.push(granted("the fifth", SOON, fifth).await);
        for guard in held {
            release(guard).await;
        }
        if undisturbed {
            assert_eq!(woken, 0, "the fourth or the fifth got an event");
            return;
        }
        assert!(round < 4, "the machine is too busy to show anything");
    }
}

/// All permits change hands many times between two clients, and none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn m1_w2_permits_are_taken_and_given_back_by_many() {
    const TASKS: u32 = 24;
    let _room = room().await;
    let server = server();
    let clients = [
        client_for(&server.url(), LONG).await,
        client_for(&server.url(), LONG).await,
    ];
    let free = std::sync::Arc::new(tokio::sync::Semaphore::new(4));
    let work = |task: u32| {
        let free = std::sync::Arc::clone(&free);
        let lock = permits(&clients[(task % 2) as usize], task % 3 + 1, 4);
        async move {
            for _ in 0..6 {
                let guard = lock.acquire().await.unwrap();
                let taken = free.try_acquire_many(task % 3 + 1);
                assert!(taken.is_ok(), "more than four are held");
                sleep(millis(2)).await;
                drop(taken);
                release(guard).await;
            }
        }
    };
    let begun = Instant::now();
    let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(work(task))).collect();
    for task in tasks {
        within("a task", BOUND, task).await.unwrap();
    }
    // A wake-up that is lost costs a third of the TTL.
    assert!(begun.elapsed() < 3 * LONG, "{:?}", begun.elapsed());
    idle(&clients[0], "a", SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_one_reader_is_evicted_and_no_other() {
    let _room = room().await;
    let server = server();
    let client = client_for(&server.url(), LONG).await;
    let guards = [
        take(reader(&client)).await,
        take(reader(&client)).await,
        take(reader(&client)).await,
    ];
    let writing = wait(&client, writer(&client), 1).await;
    let lock = name("a");
    let evicted = client.evict(&lock, guards[1].token()).await.unwrap();
    assert_eq!(evicted, Evicted::Evicted);
    within("it is lost", SOON, guards[1].lost()).await;
    let again = client.evict(&lock, guards[1].token()).await.unwrap();
    let Evicted::NotHeld(Some(holder)) = again else {
        panic!("{again:?}");
    };
    assert_eq!(holder.token, Some(guards[0].token()));
    let state = shows(&client, 2, 1).await;
    assert!(guards[0].check().is_ok() && guards[2].check().is_ok());
    // The token of a waiter is none of a grant.
    let nodes = children(&server, "/default/a").await;
    assert_eq!(nodes.len(), 3, "{nodes:?} {state:?}");
    let _ = (guards[0].release().await, guards[2].release().await);
    release(granted("the writer", SOON, writing).await).await;
}

/// A client behind a proxy that cuts it off: its session expires.
async fn cut_off(proxy: &Proxy) {
    proxy.refuse(true).unwrap();
    proxy.cut().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn x3_a_dead_reader_in_the_middle_delays_a_writer_by_its_session_alone() {
    let _room = room().await;
    let server = server();
    let looker = client_for(&server.url(), LONG).await;
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let dying = client(&proxy.url()).await;
    let first = take(reader(&looker)).await;
    let middle = take(reader(&dying)).await;
    let last = take(reader(&looker)).await;
    let waiter = wait(&looker, writer(&looker), 1).await;
    cut_off(&proxy).await;
    let begun = Instant::now();
    release(first).await;
    release(last).await;
    let guard = granted("the writer", BOUND, waiter).await;
    assert!(begun.elapsed() < 2 * TTL + SOON, "{:?}", begun.elapsed());
    assert!(middle.check().is_err(), "both hold it");
    release(guard).await;
}

/// The one permit that becomes free is that of a holder that died between two others.
#[tokio::test(flavor = "multi_thread")]
async fn x3_the_permit_of_a_dead_holder_in_the_middle_is_granted_again() {
    let _room = room().await;
    let server = server();
    let looker = client_for(&server.url(), LONG).await;
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let dying = client(&proxy.url()).await;
    let first = take(permits(&looker, 1, 3)).await;
    let middle = take(permits(&dying, 1, 3)).await;
    let last = take(permits(&looker, 1, 3)).await;
    let waiter = wait(&looker, permits(&looker, 1, 3), 1).await;
    cut_off(&proxy).await;
    let begun = Instant::now();
    let guard = granted("the waiter", BOUND, waiter).await;
    assert!(begun.elapsed() < 2 * TTL + SOON, "{:?}", begun.elapsed());
    assert!(middle.check().is_err(), "four of three are held");
    assert_eq!(guard.floor(), first.token());
    assert!(first.check().is_ok() && last.check().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_readers_behind_a_writer_that_dies_while_it_waits_are_granted_the_lock() {
    let _room = room().await;
    let server = server();
    let looker = client_for(&server.url(), LONG).await;
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let dying = client(&proxy.url()).await;
    let first = take(reader(&looker)).await;
    let writing = wait(&looker, writer(&dying), 1).await;
    let readers = [
        wait(&looker, reader(&looker), 2).await,
        wait(&looker, reader(&looker), 3).await,
    ];
    cut_off(&proxy).await;
    for reader in readers {
        let guard = granted("a reader", BOUND, reader).await;
        assert_eq!(guard.floor(), first.token());
    }
    writing.abort();
    // A writer that gives up leaves as well.
    let first = take(reader(&looker)).await;
    let writing = wait(&looker, writer(&looker), 1).await;
    let reading = wait(&looker, reader(&looker), 2).await;
    writing.abort();
    let reading = granted("the reader", SOON, reading).await;
    assert!(first.check().is_ok() && reading.check().is_ok());
}

/// The names of the requests for locks, without heartbeats.
fn requests(proxy: &Proxy) -> Vec<String> {
    let commands = proxy.commands().into_iter().filter(|command| {
        let beat = command.name == "sync" || command.name == "ping";
        let root = command.name == "exists" && command.argument(0) == "/";
        !beat && !root
    });
    commands.map(|command| command.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_free_lock_takes_the_same_requests_in_every_mode() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = client_for(&proxy.url(), LONG).await;
    let _ = take(reader(&client)).await.release().await;
    for lock in [
        reader(&client),
        permits(&client, 2, 3),
        writer(&client),
        client.lock("a").unwrap(),
    ] {
        proxy.reset();
        let guard = take(lock).await;
        until("its node is watched", SOON, || requests(&proxy).len() >= 3).await;
        release(guard).await;
        let sent = requests(&proxy);
        assert_eq!(sent, ["create2", "getChildren2", "exists", "delete"]);
    }
    // One more for the floor if another one holds the lock as well, and no mark if nobody waits.
    for lock in [reader, |client: &Client| permits(client, 1, 3)] {
        let guard = take(lock(&client)).await;
        sleep(millis(100)).await;
        proxy.reset();
        let second = take(lock(&client)).await;
        until("its node is watched", SOON, || requests(&proxy).len() >= 4).await;
        let sent = requests(&proxy);
        assert_eq!(sent, ["create2", "getChildren2", "exists", "exists"]);
        release(second).await;
        release(guard).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k1_many_permits_on_one_name_are_renewed_without_a_request_of_their_own() {
    const PERMITS: u32 = 200;
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = client_for(&proxy.url(), LONG).await;
    let mut guards = Vec::new();
    for _ in 0..PERMITS {
        guards.push(take(permits(&client, 1, PERMITS)).await);
    }
    for round in 0..5 {
        sleep(millis(200)).await;
        let connections = proxy.connections_made();
        proxy.reset();
        let before: Vec<_> = guards.iter().map(Guard::valid_until).collect();
        until("all are renewed", SOON, || {
            let mut pairs = guards.iter().zip(&before);
            pairs.all(|(guard, before)| guard.valid_until() > *before)
        })
        .await;
        let sent = requests(&proxy);
        if proxy.connections_made() == connections {
            assert!(sent.is_empty(), "renewals sent {sent:?}");
            return;
        }
        assert!(round < 4, "no connection lasts");
    }
}

/// Another program's reader shares the lock, and its other nodes are exclusive.
#[tokio::test(flavor = "multi_thread")]
async fn s3_a_foreign_contender_excludes_readers_and_permits() {
    let _room = room().await;
    let server = server();
    let client = client_for(&server.url(), LONG).await;
    let plain = hold(&client, "a").await;
    let foreign = crate::foreign::contend(&server, "/default/a").await;
    let reading = wait(&client, reader(&client), 2).await;
    let counted = wait(&client, permits(&client, 1, 3), 3).await;
    release(plain).await;
    sleep(MOMENT).await;
    assert!(!reading.is_finished() && !counted.is_finished());
    crate::foreign::delete(&server, &foreign).await;
    release(granted("the reader", SOON, reading).await).await;
    release(granted("the permit", SOON, counted).await).await;
}
