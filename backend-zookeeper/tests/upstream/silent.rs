//! Whether the crate may reconnect by itself.

use std::time::Duration;

use tenure_test_servers::wire::Proxy;
use tokio::time::{Instant, sleep};
use zookeeper_client::{Acls, Client, CreateMode};

use crate::{
    beats::{Beats, TTL},
    common::{SOON, millis, room, server, until},
};

const ROUNDS: usize = 12;
/// The driver's limit: a server on a busy machine may need this long for an answer.
const SILENCE_LIMIT: Duration = millis(300);

async fn connect(address: &str) -> Client {
    let connector = Client::connector()
        .with_session_timeout(TTL)
        .with_connection_timeout(SILENCE_LIMIT);
    let client = connector.connect(address).await.unwrap();
    assert_eq!(client.session_timeout(), TTL);
    client
}

/// The index of the proxy that carries the heartbeats, among those that are not silent.
async fn in_use(proxies: &[Proxy], silent: &[usize]) -> usize {
    let before: Vec<usize> = proxies.iter().map(|proxy| proxy.count("sync")).collect();
    let talks = |at: &usize| !silent.contains(at) && proxies[*at].count("sync") > before[*at];
    until("heartbeats", SOON, || {
        (0..proxies.len()).any(|at| talks(&at))
    })
    .await;
    (0..proxies.len()).find(talks).unwrap()
}

/// The crate shuffles the servers after each connection that was lost, so that a server that has
/// just fallen silent may be tried again before the others, and costs another time-out. The
/// driver's own order costs none of these rounds (`tests/regressions/silent.rs`).
///
/// When this fails, the defect is mended upstream, and the driver need not connect by itself.
#[tokio::test(flavor = "multi_thread")]
async fn l5_with_two_silent_servers_the_crate_reconnects_too_late() {
    let _room = room().await;
    let server = server();
    let proxies: Vec<Proxy> = (0..3)
        .map(|_| Proxy::for_zookeeper(server.address()).unwrap())
        .collect();
    let addresses: Vec<String> = proxies.iter().map(Proxy::address).collect();
    let addresses = addresses.join(",");
    let mut lost = Vec::new();
    for round in 0..ROUNDS {
        let client = connect(&addresses).await;
        let beats = Beats::begin(&client);
        until("it is proved", SOON, || beats.last().is_some()).await;
        let mut silent = Vec::new();
        let mut before = 0;
        let mut times = Vec::new();
        for _ in 0..2 {
            let at = in_use(&proxies, &silent).await;
            proxies[at].hold_requests();
            proxies[at].hold_replies();
            before += proxies[at].count("connect");
            times.push(Instant::now());
            silent.push(at);
        }
        let last = beats.last().unwrap();
        // Heartbeats sent before the silence count too, but they prove nothing new.
        let new = || beats.last().filter(|proof| proof.from > last.from);
        until("it is proved again, or the session ends", SOON, || {
            new().is_some() || beats.is_over()
        })
        .await;
        let kept = new().is_some_and(|proof| proof.at < last.valid_until());
        if !kept {
            lost.push(round);
        }
        let handshakes = silent.iter().map(|at| proxies[*at].count("connect"));
        let in_vain = handshakes.sum::<usize>() - before;
        let after = new().map(|proof| proof.at - last.from);
        println!(
            "round {round}: silent after {:?} and {:?}, {in_vain} handshakes to silent servers, proved \
             again after {after:?}: {}",
            times[0] - last.from,
            times[1] - last.from,
            if kept { "kept" } else { "lost" },
        );
        drop((beats, client));
        sleep(millis(50)).await;
        for proxy in &proxies {
            proxy.cut().unwrap();
            proxy.release_requests();
            proxy.release_replies();
            proxy.reset();
        }
    }
    println!("{} of {ROUNDS} rounds were lost: {lost:?}", lost.len());
    assert!(!lost.is_empty());
}

/// If requests arrive and replies are lost, each attempt to reconnect renews the session at the
/// server, and the crate keeps trying for 7/5 of the time-out.
///
/// When this fails, the defect is mended upstream, and the driver need not end a connection's task.
#[tokio::test(flavor = "multi_thread")]
async fn x3_the_crate_keeps_a_session_that_nobody_can_prove() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let looker = Client::connect(&server.address()).await.unwrap();
    let mut kept = Vec::new();
    for round in 0..3 {
        let client = connect(&proxy.address()).await;
        let path = format!("/held-{round}");
        let held = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
        client.create(&path, b"", &held).await.unwrap();
        let beats = Beats::begin(&client);
        until("it is proved", SOON, || beats.last().is_some()).await;
        proxy.hold_replies();
        let handshakes = proxy.count("connect");
        while looker.check_stat(&path).await.unwrap().is_some() {
            sleep(millis(5)).await;
        }
        let gone = Instant::now();
        let answered = beats.answered.borrow().unwrap();
        let times = (gone - answered).as_secs_f64() / TTL.as_secs_f64();
        println!(
            "round {round}: gone {:?} after the last answer, {times:.2} time-outs, {} handshakes, \
             client is {:?}",
            gone - answered,
            proxy.count("connect") - handshakes,
            client.state(),
        );
        kept.push(times);
        drop((beats, client));
        proxy.cut().unwrap();
        proxy.release_replies();
    }
    assert!(kept.iter().any(|times| *times > 1.5), "{kept:?}");
}
