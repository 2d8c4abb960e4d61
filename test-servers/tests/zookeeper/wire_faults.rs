//! The faults of the proxy on connections to ZooKeeper.

use std::time::Duration;

use tenure_core::clock::{Clock, SystemClock};
use tenure_test_servers::{wire::Proxy, zookeeper::Server};
use zookeeper_client::{Client, Error};

use crate::{QUIET, connect, create, exists, until};

struct Setting {
    _server: Server,
    proxy: Proxy,
    /// Connected through the proxy.
    client: Client,
    /// Connected without the proxy.
    witness: Client,
}

async fn setting() -> Setting {
    // Longer ticks, so that no session expires.
    let server = Server::builder()
        .tick(Duration::from_secs(1))
        .start()
        .unwrap();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = connect(&proxy.address()).await;
    assert!(!exists(&client, "/a").await);
    Setting {
        witness: connect(&server.address()).await,
        _server: server,
        proxy,
        client,
    }
}

#[tokio::test]
async fn dropped_reply_means_an_executed_request_and_a_closed_connection() {
    let setting = setting().await;
    for round in 0..5 {
        let path = format!("/node{round}");
        setting.proxy.drop_reply_of_and_cut("create2");
        // Not the reply of another command.
        assert!(!exists(&setting.client, &path).await);
        let outcome = create(&setting.client, &path).await;
        assert_eq!(outcome.unwrap_err(), Error::ConnectionLoss);
        setting.witness.sync("/").await.unwrap();
        assert!(exists(&setting.witness, &path).await);
        assert_eq!(setting.proxy.replies_dropped(), round + 1);
        until("the client works again", async || {
            setting.client.check_stat("/").await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn session_whose_reply_is_dropped_exists_on_the_server() {
    let setting = setting().await;
    let made = setting.proxy.connections_made();
    setting.proxy.drop_reply_of_and_cut("connect");
    let client = connect(&setting.proxy.address()).await;
    assert_eq!(setting.proxy.replies_dropped(), 1);
    assert!(setting.proxy.connections_made() >= made + 2);
    assert!(!exists(&client, "/a").await);
}

#[tokio::test]
async fn ping_is_not_the_next_command() {
    let setting = setting().await;
    setting.proxy.reset();
    setting.proxy.drop_replies_and_cut();
    until("it pings", async || setting.proxy.count("ping") > 0).await;
    assert_eq!(setting.proxy.replies_dropped(), 0);
    assert_eq!(
        create(&setting.client, "/a").await.unwrap_err(),
        Error::ConnectionLoss
    );
    assert_eq!(setting.proxy.replies_dropped(), 1);
}

#[tokio::test]
async fn held_requests_are_executed_when_released() {
    let setting = setting().await;
    setting.proxy.hold_requests();
    let client = setting.client.clone();
    let created = tokio::spawn(async move { create(&client, "/a").await });
    until("the request arrived", async || {
        setting.proxy.count("create2") == 1
    })
    .await;
    tokio::time::sleep(QUIET).await;
    assert!(!exists(&setting.witness, "/a").await);
    assert!(!created.is_finished());
    setting.proxy.release_requests();
    created.await.unwrap().unwrap();
    assert!(exists(&setting.witness, "/a").await);
}

#[tokio::test]
async fn held_replies_belong_to_executed_requests_and_are_lost_with_a_cut() {
    let setting = setting().await;
    setting.proxy.hold_replies();
    let client = setting.client.clone();
    let created = tokio::spawn(async move { create(&client, "/a").await });
    until("the request was carried out", async || {
        exists(&setting.witness, "/a").await
    })
    .await;
    assert!(!created.is_finished());
    setting.proxy.cut().unwrap();
    created.await.unwrap().unwrap_err();
    setting.proxy.release_replies();
    until("the client works again", async || {
        setting.client.check_stat("/a").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn either_direction_can_be_delayed() {
    let delay = Duration::from_millis(300);
    let setting = setting().await;
    let request = async || {
        let begun = SystemClock.now();
        assert!(!exists(&setting.client, "/a").await);
        SystemClock.now().since(begun)
    };
    assert!(request().await < delay);
    setting.proxy.delay_requests(delay);
    assert!(request().await >= delay);
    setting.proxy.delay_replies(delay);
    assert!(request().await >= delay * 2);
}
