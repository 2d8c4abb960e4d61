//! Servers that fall silent one after the other, at the smallest TTL.

use tenure_core::{Client, Release};
use tenure_test_servers::wire::Proxy;
use tokio::time::sleep;

use crate::common::{SOON, hold, millis, room, server, store, until};

/// The index of the proxy that carries the heartbeats, among those that are not silent.
async fn in_use(proxies: &[Proxy], silent: &[usize]) -> usize {
    for proxy in proxies {
        proxy.reset();
    }
    let talks = |at: &usize| !silent.contains(at) && proxies[*at].count("sync") > 0;
    until("heartbeats", SOON, || {
        (0..proxies.len()).any(|at| talks(&at))
    })
    .await;
    (0..proxies.len()).find(talks).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_two_servers_that_fall_silent_one_after_the_other_cost_no_lock() {
    let _room = room().await;
    let server = server();
    let proxies: Vec<Proxy> = (0..3)
        .map(|_| Proxy::for_zookeeper(server.address()).unwrap())
        .collect();
    let addresses: Vec<String> = proxies.iter().map(Proxy::address).collect();
    let url = format!("zookeeper://{}", addresses.join(","));
    let ttl = millis(1250);
    let mut lost = Vec::new();
    for round in 0..12 {
        let client = Client::builder(store(&url))
            .ttl(ttl)
            .connect()
            .await
            .unwrap();
        let guard = hold(&client, "a").await;
        let before = guard.valid_until();
        until("it is proved", SOON, || guard.valid_until() > before).await;
        let mut silent = Vec::new();
        for _ in 0..2 {
            let at = in_use(&proxies, &silent).await;
            proxies[at].hold_requests();
            proxies[at].hold_replies();
            silent.push(at);
        }
        let last = guard.valid_until();
        until("it is proved again, or lost", SOON, || {
            guard.check().is_err() || guard.valid_until() > last
        })
        .await;
        if guard.check().is_err() {
            lost.push(round);
        }
        for proxy in &proxies {
            proxy.release_requests();
            proxy.release_replies();
        }
        sleep(millis(100)).await;
        let released = guard.release().await;
        assert!(lost.contains(&round) || matches!(released, Release::Released));
        client.shutdown(SOON).await;
    }
    assert_eq!(lost, Vec::<i32>::new(), "these rounds lost the lock");
}
