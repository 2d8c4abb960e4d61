//! Ten thousand locks of one client, crowds of requests, and a stream of cancellations.

use std::{sync::Arc, time::Duration};

use tenure_core::{
    Client, Guard, Release,
    id::AttemptId,
    request::{Enqueue, Owner},
};
use tenure_test_servers::{wire::Proxy, zookeeper::Server};
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::common::{Raw, SOON, TTL, client, hold, idle, millis, name, room, server, store, until};

const COUNT: usize = 10_000;
/// The TTL that ten thousand locks need on a busy machine, without optimisation.
const LONG: Duration = Duration::from_secs(4);
/// The longest TTL that the servers of these tests grant.
const LONGEST: Duration = Duration::from_secs(24);

fn patient_server() -> Server {
    let longest = LONGEST.as_millis().to_string();
    let server = Server::builder().config("maxSessionTimeout", &longest);
    server.start().unwrap()
}

async fn patient_client(url: &str, ttl: Duration) -> Client {
    let builder = Client::builder(store(url)).ttl(ttl);
    builder.connect().await.unwrap()
}

async fn hold_all(client: &Client, count: usize, length: usize) -> Vec<Guard> {
    let mut guards = Vec::with_capacity(count);
    let mut tasks = JoinSet::new();
    for at in 0..count {
        let client = client.clone();
        tasks.spawn(async move { hold(&client, &format!("{at:0>length$}")).await });
        if tasks.len() >= 200 {
            guards.push(tasks.join_next().await.unwrap().unwrap());
        }
    }
    while let Some(guard) = tasks.join_next().await {
        guards.push(guard.unwrap());
    }
    guards
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_a_broken_connection_costs_none_of_ten_thousand_locks() {
    a_broken_connection_costs_none(40, LONG).await;
}

/// The paths of their watches are far longer than one request may be.
#[tokio::test(flavor = "multi_thread")]
async fn l5_a_broken_connection_costs_none_of_ten_thousand_locks_with_long_names() {
    a_broken_connection_costs_none(512, 3 * LONG).await;
}

/// `length` is that of the names, in bytes.
async fn a_broken_connection_costs_none(length: usize, ttl: Duration) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _alone = ONE_AT_A_TIME.lock().await;
    let _room = room().await;
    let server = patient_server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = patient_client(&proxy.url(), ttl).await;
    let begun = Instant::now();
    let guards = hold_all(&owner, COUNT, length).await;
    println!("{COUNT} locks are held after {:?}", begun.elapsed());
    assert!(guards.iter().all(|guard| guard.check().is_ok()));
    for _ in 0..3 {
        let connections = proxy.connections_made();
        let last = guards.iter().map(Guard::valid_until).max().unwrap();
        let begun = Instant::now();
        proxy.cut().unwrap();
        until("all are proved again", SOON, || {
            let lost = guards.iter().filter_map(|guard| guard.check().err());
            let lost: Vec<_> = lost.map(|error| error.to_string()).collect();
            assert!(
                lost.is_empty(),
                "{} locks were lost after {:?}: {}; {} connections",
                lost.len(),
                begun.elapsed(),
                lost[0],
                proxy.connections_made() - connections
            );
            guards.iter().all(|guard| guard.valid_until() > last)
        })
        .await;
        let made = proxy.connections_made() - connections;
        println!(
            "proved again after {:?}, {made} connections",
            begun.elapsed()
        );
        // The client crate begins to connect by itself before its task is dropped.
        assert!(made <= 2, "a connection that served was given up");
    }
    let begun = Instant::now();
    drop(guards);
    owner.shutdown(3 * SOON).await;
    println!("all are released after {:?}", begun.elapsed());
}

/// The server answers a thousand requests a second and is never silent.
#[tokio::test(flavor = "multi_thread")]
async fn l5_releasing_thousands_of_locks_at_once_costs_no_other_lock() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let builder = Client::builder(store(&proxy.url())).ttl(millis(3000));
    let owner = builder.connect().await.unwrap();
    let kept = hold(&owner, "kept").await;
    let guards = hold_all(&owner, 5000, 40).await;
    let connections = proxy.connections_made();
    proxy.pace_replies(millis(1));
    let begun = Instant::now();
    let mut releases: JoinSet<Release> = guards
        .into_iter()
        .map(|guard| async move { guard.release().await })
        .collect();
    let mut released = 0;
    while let Some(release) = releases.join_next().await {
        released += u32::from(matches!(release.unwrap(), Release::Released));
    }
    println!("{released} are released after {:?}", begun.elapsed());
    // The client goes on with the others in the background.
    let looker = client(&server.url()).await;
    idle(&looker, &format!("{:0>40}", 4999), 3 * SOON).await;
    println!("the last one after {:?}", begun.elapsed());
    assert!(kept.check().is_ok(), "the lock that is kept was lost");
    assert_eq!(
        proxy.connections_made(),
        connections,
        "a connection that served was given up"
    );
}

/// The server is silent for longer than a request may take, and more enqueues come than are sent at once.
#[tokio::test(flavor = "multi_thread")]
async fn a3_an_enqueue_that_waits_in_vain_to_be_sent_has_no_effect() {
    const ENQUEUES: usize = 400;
    let _room = room().await;
    let server = patient_server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    // Heartbeats may stay unanswered for longer than that.
    let raw = Raw::connect_for(&proxy.url(), millis(4000)).await;
    let enqueue = || {
        let backend = Arc::clone(&raw.backend);
        let attempt = AttemptId::random().unwrap();
        let request = Enqueue::new(name("queue"), attempt, Owner::default(), LONGEST, true);
        async move { backend.enqueue(request).await }
    };
    // The session and the parent nodes exist.
    enqueue().await.unwrap();
    proxy.reset();
    proxy.hold_replies();
    let enqueues: JoinSet<_> = (0..ENQUEUES).map(|_| enqueue()).collect();
    let errors = enqueues.join_all().await.into_iter();
    let errors: Vec<_> = errors.filter_map(Result::err).collect();
    assert_eq!(errors.len(), ENQUEUES);
    let unsent = errors.iter().filter(|error| error.is_without_effect());
    let sent = ENQUEUES - unsent.count();
    assert!(sent < ENQUEUES, "none is known to be without effect");
    proxy.release_replies();
    // It is sent after what the earlier ones may still send.
    enqueue().await.unwrap();
    assert_eq!(proxy.count("create2"), sent + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_cancellations_while_connections_break_leave_nothing() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let (owner, looker) = (client(&proxy.url()).await, client(&server.url()).await);
    // Another lock, which keeps the session alive.
    let guard = hold(&owner, "kept").await;
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < 4 * TTL {
        rounds += 1;
        let tasks: Vec<_> = (0..4)
            .map(|at| owner.lock(format!("lock {}", at % 2)).unwrap())
            .map(|lock| tokio::spawn(async move { lock.acquire().await }))
            .collect();
        sleep(millis(random(8))).await;
        match random(12) {
            0 => proxy.cut().unwrap(),
            1 => proxy.drop_reply_of_and_cut("create2"),
            2 => proxy.drop_reply_of_and_cut("delete"),
            3 => proxy.drop_reply_of_and_cut("getChildren2"),
            _ => {}
        }
        for task in tasks {
            sleep(millis(random(3))).await;
            task.abort();
            drop(task.await);
        }
        if rounds % 25 == 0 {
            sleep(TTL / 3).await;
        }
        assert!(guard.check().is_ok(), "round {rounds}");
    }
    for lock in 0..2 {
        idle(&looker, &format!("lock {lock}"), SOON).await;
    }
    assert!(guard.check().is_ok());
    println!("{rounds} rounds");
}

#[tokio::test(flavor = "multi_thread")]
async fn w3_a_thousand_waiters_that_arrive_at_once_all_have_a_turn() {
    let _room = room().await;
    let server = patient_server();
    let holder = patient_client(&server.url(), LONGEST).await;
    let guard = hold(&holder, "queue").await;
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let client = patient_client(&server.url(), LONGEST).await;
        for _ in 0..250 {
            let lock = client.lock("queue").unwrap();
            tasks.spawn(async move {
                let guard = lock.acquire().await.unwrap();
                let token = guard.token();
                let _ = guard.release().await;
                token
            });
        }
        clients.push(client);
    }
    crate::common::waiting_within(5 * SOON, &holder, "queue", 1000).await;
    println!("1,000 wait after {:?}", begun.elapsed());
    sleep(LONG).await;
    let begun = Instant::now();
    let _ = guard.release().await;
    let mut last = 0;
    while let Some(token) = tasks.join_next().await {
        last = last.max(token.unwrap().get());
    }
    println!("1,000 had their turns after {:?}", begun.elapsed());
    assert!(last > 0);
}
