//! The proxy records the calls to etcd.

use etcd_client::{Compare, CompareOp, Txn, TxnOp, WatchOptions};
use tenure_test_servers::{etcd::Server, wire::Proxy};

use crate::{connect, get, until};

#[tokio::test]
async fn calls_are_recorded_by_name_with_their_messages() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    assert_eq!(proxy.url(), format!("etcd://127.0.0.1:{}", proxy.port()));
    let mut client = connect(proxy.address()).await;
    let absent = Compare::version("key-of-txn", CompareOp::Equal, 0);
    let put = TxnOp::put("key-of-txn", "value-of-txn", None);
    let txn = || Txn::new().when([absent.clone()]).and_then([put.clone()]);
    assert!(client.txn(txn()).await.unwrap().succeeded());
    assert!(!client.txn(txn()).await.unwrap().succeeded());
    assert_eq!(
        get(&mut client, "key-of-txn").await.as_deref(),
        Some("value-of-txn")
    );

    let commands = proxy.commands();
    let names: Vec<&str> = commands.iter().map(|command| &*command.name).collect();
    assert_eq!(names, ["Txn", "Txn", "Range"]);
    for part in ["key-of-txn", "value-of-txn"] {
        assert!(commands[0].argument(0).contains(part), "{part}");
    }
    assert_eq!(commands[0].arguments.len(), 1);
    assert!(commands[2].argument(0).contains("key-of-txn"));
    assert_eq!((proxy.count("txn"), proxy.requests()), (2, 3));
    assert_eq!(proxy.connections_unreadable(), 0);
    proxy.reset();
    assert_eq!((proxy.count("Txn"), proxy.requests()), (0, 0));
}

#[tokio::test]
async fn each_message_of_an_open_call_is_recorded() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let mut client = connect(proxy.address()).await;
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await.unwrap();
    for _ in 0..2 {
        keeper.keep_alive().await.unwrap();
        answers.message().await.unwrap().unwrap();
    }
    let mut stream = client
        .watch("key", Some(WatchOptions::new()))
        .await
        .unwrap();
    client.put("key", "value", None).await.unwrap();
    // The first message reports the creation of the watch.
    while stream.message().await.unwrap().unwrap().events().is_empty() {}

    assert_eq!(proxy.count("LeaseGrant"), 1);
    assert_eq!(proxy.count("LeaseKeepAlive"), 1);
    until("every message is recorded", async || {
        proxy.count("LeaseKeepAlive.message") >= 2
    })
    .await;
    assert_eq!(proxy.count("Watch"), 1);
    assert!(
        proxy
            .commands()
            .iter()
            .any(|command| command.name == "Watch" && command.argument(0).contains("key"))
    );
    assert_eq!(proxy.count("Put"), 1);
}

#[tokio::test]
async fn concurrent_and_large_calls_are_recorded_separately() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = connect(proxy.address()).await;
    let puts = (0..100).map(|index| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let value = vec![b'v'; index * 1_000];
            client.put(format!("key{index}."), value, None).await
        })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap().unwrap();
    }
    assert_eq!(proxy.count("Put"), 100);
    let commands = proxy.commands();
    for index in 0..100 {
        let key = format!("key{index}.");
        let of_key = commands.iter().filter(|c| c.argument(0).contains(&key));
        let lengths: Vec<usize> = of_key.map(|c| c.arguments[0].len()).collect();
        assert_eq!(lengths.len(), 1, "{key}");
        assert!((index * 1_000..index * 1_000 + 40).contains(&lengths[0]));
    }
    assert_eq!(proxy.connections_unreadable(), 0);
}

#[tokio::test]
async fn other_protocol_is_relayed_and_counted_as_unreadable() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let answer = tokio::task::spawn_blocking(move || {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(proxy.address()).unwrap();
        stream
            .write_all(b"GET /health HTTP/1.0\r\nHost: a-name-that-is-long\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(proxy.connections_unreadable(), 1);
        answer
    });
    assert!(answer.await.unwrap().contains("200 OK"));
}
