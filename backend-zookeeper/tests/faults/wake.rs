//! Word of a change that comes together with the answer to who waits.

use tenure_core::Client;
use tenure_test_servers::{wire::Proxy, zookeeper::Server};
use tokio::time::{Instant, sleep};

use crate::{
    common::{SOON, acquire, granted, millis, room, store, until},
    foreign::{ALL, contend, delete, make},
};

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_change_that_is_told_with_the_answer_wakes_the_waiter() {
    let _room = room().await;
    let server = Server::builder().config("maxSessionTimeout", "9000");
    let server = server.start().unwrap();
    make(&server, "/default", ALL).await;
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let ttl = millis(9000);
    let client = Client::builder(store(&proxy.url()))
        .ttl(ttl)
        .connect()
        .await
        .unwrap();
    let mut slow = Vec::new();
    for round in 0..8 {
        let path = format!("/default/l{round}");
        make(&server, &path, ALL).await;
        let ahead = [contend(&server, &path).await, contend(&server, &path).await];
        proxy.reset();
        proxy.delay_replies(millis(40));
        let waiter = acquire(&client, &format!("l{round}"));
        until("it looks ahead", SOON, || proxy.count("getData") > 0).await;
        proxy.hold_replies();
        for node in &ahead {
            delete(&server, node).await;
        }
        proxy.delay_replies(millis(0));
        sleep(millis(100)).await;
        let begun = Instant::now();
        proxy.release_replies();
        let guard = granted("the waiter", SOON, waiter).await;
        if begun.elapsed() > millis(700) {
            slow.push((round, begun.elapsed()));
        }
        let _ = guard.release().await;
    }
    assert!(slow.is_empty(), "{slow:?}");
}
