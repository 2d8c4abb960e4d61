//! Clients whose replies arrive late: every client makes progress.

use std::time::Duration;

use tenure_core::Client;
use tenure_test_servers::wire::Proxy;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::common::{SOON, TTL, hold, millis, room, server, store};

const TIME: Duration = Duration::from_secs(20);

/// Two tasks of each client take turns on one lock, with a request time-out of 15 % of the TTL.
async fn everybody_has_turns(delays: [u64; 4]) {
    let _room = room().await;
    let server = server();
    let mut links = Vec::new();
    let mut clients = Vec::new();
    for _ in delays {
        let link = Proxy::for_zookeeper(server.address()).unwrap();
        let begun = Instant::now();
        let client = loop {
            let builder = Client::builder(store(&link.url())).ttl(TTL);
            match builder.request_timeout(millis(300)).connect().await {
                Ok(client) => break client,
                Err(error) => assert!(begun.elapsed() < SOON, "{error}"),
            }
        };
        let _ = hold(&client, &format!("warm {}", links.len()))
            .await
            .release()
            .await;
        links.push(link);
        clients.push(client);
    }
    for (link, delay) in links.iter().zip(delays) {
        link.delay_replies(millis(delay));
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for (client, delay) in clients.iter().zip(delays) {
        for _ in 0..2 {
            let lock = client.lock("a").unwrap();
            tasks.spawn(async move {
                let (mut turns, mut worst, mut last) = (0, Duration::ZERO, Instant::now());
                while begun.elapsed() < TIME {
                    let Ok(guard) = lock.acquire().await else {
                        sleep(millis(5)).await;
                        continue;
                    };
                    turns += 1;
                    worst = worst.max(last.elapsed());
                    last = Instant::now();
                    let _ = guard.release().await;
                }
                (delay, turns, worst.max(last.elapsed()))
            });
        }
    }
    for (delay, turns, worst) in timeout(TIME + 2 * SOON, tasks.join_all()).await.unwrap() {
        println!("{delay} ms: {turns} turns, worst wait {worst:?}");
        assert!(turns > 0 && worst < 4 * TTL, "{delay} ms: {worst:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_every_client_has_turns_beside_one_with_late_replies() {
    everybody_has_turns([0, 0, 0, 160]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_every_client_has_turns_when_all_replies_are_late() {
    everybody_has_turns([160; 4]).await;
}
