//! Very many locks of one client, and cancellations without end.

use tenure_core::{Client, Guard};
use tenure_test_servers::wire::Proxy;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::common::{SOON, TTL, acquire, alone, client, hold, idle, millis, server, until};

async fn hold_all(client: &Client, count: usize) -> Vec<Guard> {
    let mut guards = Vec::with_capacity(count);
    let mut tasks = JoinSet::new();
    for at in 0..count {
        let client = client.clone();
        tasks.spawn(async move { hold(&client, &format!("lock {at}")).await });
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
    let _alone = alone().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let owner = client(&proxy.url()).await;
    let begun = Instant::now();
    let guards = hold_all(&owner, 10_000).await;
    println!("10,000 locks are held after {:?}", begun.elapsed());
    assert!(guards.iter().all(|guard| guard.check().is_ok()));
    for _ in 0..3 {
        let connections = proxy.connections_made();
        let last = guards.iter().map(Guard::valid_until).max().unwrap();
        let begun = Instant::now();
        proxy.cut().unwrap();
        until("all are proved again", SOON, || {
            let lost = guards.iter().filter(|guard| guard.check().is_err()).count();
            assert_eq!(lost, 0, "locks were lost");
            guards.iter().all(|guard| guard.valid_until() > last)
        })
        .await;
        let made = proxy.connections_made() - connections;
        println!("proved again after {:?}, {made} connections", begun.elapsed());
    }
    let begun = Instant::now();
    drop(guards);
    owner.shutdown(3 * SOON).await;
    println!("all are released after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_cancellations_while_connections_break_leave_nothing() {
    let _alone = alone().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let (owner, looker) = (client(&proxy.url()).await, client(&server.url()).await);
    // What keeps the session alive.
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
            .map(|at| acquire(&owner, &format!("lock {}", at % 2)))
            .collect();
        sleep(millis(random(8))).await;
        match random(12) {
            0 => proxy.cut().unwrap(),
            1 => proxy.drop_reply_of_and_cut("create2"),
            2 => proxy.drop_reply_of_and_cut("delete"),
            3 => proxy.drop_reply_of_and_cut("getChildren"),
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
