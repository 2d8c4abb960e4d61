//! The faults of the proxy on connections to etcd.

use std::time::Duration;

use etcd_client::Client;
use tenure_core::clock::{Clock, SystemClock};
use tenure_test_servers::{etcd::Server, wire::Proxy};
use tokio::time::timeout;

use crate::{BOUND, QUIET, connect, get, until};

struct Setting {
    _server: Server,
    proxy: Proxy,
    /// Connected through the proxy.
    client: Client,
    /// Connected without the proxy.
    witness: Client,
}

async fn setting() -> Setting {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let mut client = connect(proxy.address()).await;
    assert_eq!(get(&mut client, "a").await, None);
    proxy.reset();
    Setting {
        witness: connect(server.address()).await,
        _server: server,
        proxy,
        client,
    }
}

#[tokio::test]
async fn dropped_reply_means_an_executed_call_and_a_closed_connection() {
    let mut setting = setting().await;
    for round in 0..10 {
        let key = format!("key{round}");
        setting.proxy.drop_reply_of_and_cut("Put");
        // Not the reply of another command.
        assert_eq!(get(&mut setting.client, &key).await, None);
        let outcome = setting.client.put(key.clone(), "value", None).await;
        outcome.unwrap_err();
        let found = get(&mut setting.witness, &key).await;
        assert_eq!(found.as_deref(), Some("value"));
        assert_eq!(setting.proxy.replies_dropped(), round + 1);
        // The client reconnects.
        until("the client works again", async || {
            setting.client.clone().get(&*key, None).await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn reply_of_a_message_on_an_open_call_is_dropped() {
    let mut setting = setting().await;
    let lease = setting.client.lease_grant(60, None).await.unwrap().id();
    let (mut keeper, mut answers) = setting.client.lease_keep_alive(lease).await.unwrap();
    setting
        .proxy
        .drop_reply_of_and_cut("LeaseKeepAlive.message");
    keeper.keep_alive().await.unwrap();
    let answer = timeout(BOUND, answers.message()).await.unwrap();
    assert!(!matches!(answer, Ok(Some(_))), "{answer:?}");
    assert_eq!(setting.proxy.replies_dropped(), 1);
}

#[tokio::test]
async fn refused_call_counts_as_answered() {
    let mut setting = setting().await;
    setting.proxy.drop_replies_and_cut();
    setting.client.lease_revoke(12_345).await.unwrap_err();
    assert_eq!(setting.proxy.replies_dropped(), 1);
}

#[tokio::test]
async fn held_requests_are_executed_when_released() {
    let mut setting = setting().await;
    setting.proxy.hold_requests();
    let mut client = setting.client.clone();
    let put = tokio::spawn(async move { client.put("a", "1", None).await });
    until("the call arrived", async || setting.proxy.count("Put") == 1).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(get(&mut setting.witness, "a").await, None);
    assert!(!put.is_finished());
    setting.proxy.release_requests();
    put.await.unwrap().unwrap();
    assert_eq!(get(&mut setting.witness, "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn held_replies_belong_to_executed_calls_and_are_lost_with_a_cut() {
    let mut setting = setting().await;
    setting.proxy.hold_replies();
    let mut client = setting.client.clone();
    let put = tokio::spawn(async move { client.put("a", "1", None).await });
    until("the call was carried out", async || {
        get(&mut setting.witness.clone(), "a").await.as_deref() == Some("1")
    })
    .await;
    assert!(!put.is_finished());
    setting.proxy.cut().unwrap();
    put.await.unwrap().unwrap_err();
    setting.proxy.release_replies();
    until("the client works again", async || {
        setting.client.clone().get("a", None).await.is_ok()
    })
    .await;
    assert_eq!(get(&mut setting.client, "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn either_direction_can_be_delayed() {
    let delay = Duration::from_millis(300);
    let mut setting = setting().await;
    let mut call = async || {
        let begun = SystemClock.now();
        assert_eq!(get(&mut setting.client, "a").await, None);
        SystemClock.now().since(begun)
    };
    assert!(call().await < delay);
    setting.proxy.delay_requests(delay);
    assert!(call().await >= delay);
    setting.proxy.delay_replies(delay);
    assert!(call().await >= delay * 2);
    setting.proxy.delay_requests(Duration::ZERO);
    setting.proxy.delay_replies(Duration::ZERO);
    assert_eq!(setting.proxy.count("Range"), 3);
}
