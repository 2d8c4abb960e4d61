//! Three servers, of which some die, stop, and come back.

use std::time::Duration;

use tenure_core::{
    Release,
    clock::{Clock as _, SystemClock},
    lease::Phase,
};
use tenure_test_servers::wire::Proxy;
use tokio::{
    task::{JoinSet, block_in_place},
    time::sleep,
};

use crate::{
    common::{
        BOUND, LONG, SOON, TTL, acquire, client, client_for, cluster, granted, hold, proxies,
        regain, room, until, waiting, within,
    },
    contention::Contenders,
};

/// A request that the servers have not carried out after this time never is.
const STANDSTILL: Duration = Duration::from_secs(5);

/// A slow server's time for one answer: much less than the time after which a server counts as silent.
const SLOW: Duration = Duration::from_millis(150);

/// How late a task may run on a busy machine.
const LATE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_w2_a_follower_that_dies_and_comes_back() {
    let _room = room().await;
    let cluster = cluster();
    let contenders = Contenders::start(&cluster.url()).await;
    let follower = cluster.leader().unwrap() + 1;
    cluster.server(follower).kill();
    contenders.wait_for_progress(BOUND).await;
    cluster.server(follower).restart().unwrap();
    contenders.wait_for_progress(BOUND).await;
    contenders.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_w2_a_leader_that_dies_and_comes_back() {
    let _room = room().await;
    let cluster = cluster();
    let contenders = Contenders::start(&cluster.url()).await;
    let leader = cluster.leader().unwrap();
    cluster.server(leader).kill();
    contenders.wait_for_progress(BOUND).await;
    cluster.server(leader).restart().unwrap();
    contenders.wait_for_progress(BOUND).await;
    contenders.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l1_x1_without_a_majority_nothing_is_granted_and_what_is_held_ends_in_time() {
    let _room = room().await;
    let cluster = cluster();
    let contenders = Contenders::start(&cluster.url()).await;
    let other = client(&cluster.url()).await;
    let guard = hold(&other, "held").await;
    let leader = cluster.leader().unwrap();
    let gone = [leader, leader + 1];
    for index in gone {
        cluster.server(index).kill();
    }
    let limit = SystemClock.now() + TTL;
    within("the loss", TTL + SOON, guard.lost()).await;
    assert!(guard.check().is_err());
    let end = guard.valid_until();
    assert!(end <= limit, "something was proved without a majority");
    let late = SystemClock.now().since(end);
    assert!(late < LATE, "told {late:?} after the deadline");
    // Every answer from before the end is counted now.
    sleep(TTL).await;
    let before = contenders.turns();
    sleep(TTL).await;
    assert_eq!(
        contenders.turns(),
        before,
        "something was granted without a majority"
    );
    for index in gone {
        cluster.server(index).restart().unwrap();
    }
    contenders.wait_for_progress(BOUND).await;
    let again = regain(&other, "held", BOUND).await;
    assert!(again.token() > guard.token());
    contenders.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_t1_w2_a_leader_that_is_stopped_for_longer_than_the_ttl() {
    let _room = room().await;
    let cluster = cluster();
    let contenders = Contenders::start(&cluster.url()).await;
    let leader = cluster.leader().unwrap();
    cluster.server(leader).pause().unwrap();
    contenders.wait_for_progress(BOUND).await;
    sleep(2 * TTL).await;
    cluster.server(leader).resume().unwrap();
    contenders.wait_for_progress(BOUND).await;
    contenders.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_all_servers_are_stopped_for_longer_than_the_ttl() {
    let _room = room().await;
    let cluster = cluster();
    let contenders = Contenders::start(&cluster.url()).await;
    for server in cluster.servers() {
        server.pause().unwrap();
    }
    sleep(2 * TTL).await;
    for server in cluster.servers() {
        server.resume().unwrap();
    }
    if contenders.moves(SOON).await.is_err()
        && block_in_place(|| cluster.stands_still(STANDSTILL)).unwrap()
    {
        // The servers lost their quorum by themselves: only an operator can repair that.
        eprintln!("the servers do not recover by themselves; their leader is restarted");
        let leader = block_in_place(|| cluster.leader()).unwrap();
        cluster.server(leader).kill();
        cluster.server(leader).restart().unwrap();
    }
    contenders.wait_for_progress(BOUND).await;
    assert!(
        contenders
            .client()
            .list(tenure_core::request::List::new("", 10))
            .await
            .is_ok()
    );
    contenders.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_a_client_that_is_cut_off_from_its_server_goes_on_with_another() {
    let _room = room().await;
    let cluster = cluster();
    let (proxies, url) = proxies(&cluster);
    let owner = client_for(&url, LONG).await;
    let guard = hold(&owner, "kept").await;
    let other = client(&cluster.url()).await;
    let waiter = acquire(&other, "kept");
    waiting(&other, "kept", 1).await;
    // Three times, each time from all servers in use; one server is left each time.
    for round in 0..3 {
        for proxy in &proxies {
            proxy.refuse(false).unwrap();
        }
        let spared = round % 3;
        for (index, proxy) in proxies.iter().enumerate() {
            if index != spared {
                proxy.refuse(true).unwrap();
                proxy.cut().unwrap();
            }
        }
        let deadline = guard.valid_until();
        until("a proof over the server that is left", SOON, || {
            assert!(guard.check().is_ok(), "lost by a cut");
            guard.phase() == Phase::Held && guard.valid_until() > deadline
        })
        .await;
    }
    assert!(!waiter.is_finished());
    assert!(matches!(guard.release().await, Release::Released));
    let _ = granted("the waiter", SOON, waiter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l1_t1_a_session_that_expires_while_its_owner_is_cut_off() {
    let _room = room().await;
    let cluster = cluster();
    let (proxies, url) = proxies(&cluster);
    let owner = client(&url).await;
    let guard = hold(&owner, "lapses").await;
    let other = client_for(&cluster.url(), LONG).await;
    let waiter = acquire(&other, "lapses");
    waiting(&other, "lapses", 1).await;
    for proxy in &proxies {
        proxy.hold_requests();
        proxy.hold_replies();
    }
    let next = granted("the lock of a silent owner", BOUND, waiter).await;
    assert!(guard.check().is_err(), "two hold it");
    assert!(next.token() > guard.token());
    for proxy in &proxies {
        proxy.release_requests();
        proxy.release_replies();
    }
    assert!(matches!(guard.release().await, Release::NotHeld(_)));
    assert!(next.check().is_ok(), "the late release took another's lock");
    assert!(matches!(next.release().await, Release::Released));
    let again = regain(&owner, "lapses", BOUND).await;
    assert!(again.token() > next.token());
}

/// A server that answers one request after another, slowly, is left for one that is fast, although it
/// never falls silent.
#[tokio::test(flavor = "multi_thread")]
async fn l5_w2_a_server_that_answers_slowly_is_left() {
    let _room = room().await;
    let cluster = cluster();
    let (proxies, url) = proxies(&cluster);
    let owner = client_for(&url, LONG).await;
    let guard = hold(&owner, "a").await;
    // Requests whose answers the heartbeats wait for.
    let mut busy = JoinSet::new();
    for task in 0..8 {
        let lock = owner.lock(format!("busy {task}")).unwrap();
        busy.spawn(async move {
            loop {
                let _ = lock.try_acquire().await;
            }
        });
    }
    for _ in 0..2 {
        let in_use = serving(&proxies).await;
        proxies[in_use].pace_replies(SLOW);
        until("the client has left the slow server", SOON, || {
            proxies[in_use].connections_open() == 0
        })
        .await;
        proxies[in_use].pace_replies(Duration::ZERO);
        // On another server, the grant is proved again.
        let deadline = guard.valid_until();
        until("the grant is proved", SOON, || {
            guard.valid_until() > deadline
        })
        .await;
    }
    assert!(guard.check().is_ok(), "a slow server ended the grant");
}

/// Returns the proxy over which the session for locks sends its heartbeats.
async fn serving(proxies: &[Proxy]) -> usize {
    for proxy in proxies {
        proxy.reset();
    }
    let busy = || proxies.iter().position(|proxy| proxy.count("sync") > 2);
    until("the session is alive", SOON, || busy().is_some()).await;
    busy().unwrap()
}
