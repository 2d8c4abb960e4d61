//! The proxy records the requests to ZooKeeper.

use std::time::Duration;

use tenure_test_servers::{wire::Proxy, zookeeper::Server};
use zookeeper_client::{Acls, Client, CreateMode};

use crate::{PERSISTENT, connect, create, exists, until};

#[tokio::test]
async fn requests_are_recorded_by_name_with_their_paths() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let url = format!("zookeeper://127.0.0.1:{}", proxy.port());
    assert_eq!(proxy.url(), url);
    let connector = Client::connector()
        .with_session_timeout(Duration::from_millis(1_500))
        .with_auth("digest", b"app:secret");
    let client = connector.connect(&proxy.address()).await.unwrap();
    create(&client, "/node").await.unwrap();
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    client.create("/node/c-", b"data", &options).await.unwrap();
    let container = CreateMode::Container.with_acls(Acls::anyone_all());
    client.create("/box", b"", &container).await.unwrap();
    assert!(exists(&client, "/node").await);
    assert_eq!(client.list_children("/node").await.unwrap().len(), 1);
    client.get_children("/node").await.unwrap();
    client.sync("/node").await.unwrap();
    let mut writer = client.new_multi_writer();
    writer.add_check_version("/node", 0).unwrap();
    writer.add_create("/other", b"", &PERSISTENT).unwrap();
    writer.add_set_data("/other", b"set", None).unwrap();
    writer.add_delete("/other", None).unwrap();
    writer.commit().await.unwrap();
    client.delete("/box", None).await.unwrap();

    let commands = proxy.commands();
    let said: Vec<String> = commands
        .iter()
        .filter(|command| command.name != "ping")
        .map(|command| format!("{} {}", command.name, command.argument(0)))
        .collect();
    assert_eq!(
        said,
        [
            "connect 0",
            "auth digest",
            "create2 /node",
            "create2 /node/c-",
            "createContainer /box",
            "exists /node",
            "getChildren /node",
            "getChildren2 /node",
            "sync /node",
            "multi check /node",
            "delete /box",
        ]
    );
    let multi = commands.iter().find(|c| c.name == "multi").unwrap();
    let parts: Vec<String> = (0..4).map(|index| multi.argument(index)).collect();
    let expected = [
        "check /node",
        "create2 /other",
        "setData /other",
        "delete /other",
    ];
    assert_eq!(parts, expected);
    let sequential = commands.iter().find(|c| c.argument(0) == "/node/c-");
    assert!(sequential.unwrap().argument(1).contains("data"));
    assert_eq!(commands[0].argument(1), "1500");
    assert!(!format!("{commands:?}").contains("secret"));
    assert_eq!(proxy.count("CREATE2"), 2);
    assert_eq!(proxy.connections_unreadable(), 0);
}

#[tokio::test]
async fn pings_and_the_end_of_a_session_are_recorded() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = connect(&proxy.address()).await;
    until("it pings", async || proxy.count("ping") >= 2).await;
    drop(client);
    until("it says that it ends", async || {
        proxy.count("closeSession") == 1
    })
    .await;
}

#[tokio::test]
async fn resumed_session_differs_from_a_new_one() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = connect(&proxy.address()).await;
    let session = client.session_id();
    proxy.cut().unwrap();
    until("it connects again", async || proxy.count("connect") == 2).await;
    let commands = proxy.commands();
    let connects: Vec<String> = commands
        .iter()
        .filter(|command| command.name == "connect")
        .map(|command| command.argument(0))
        .collect();
    assert_eq!(
        connects,
        [
            "0".to_owned(),
            session.to_string().trim_start_matches("0x").to_owned()
        ]
    );
}

#[test]
fn four_letters_are_passed_on_and_what_is_not_zookeeper_is_said_to_be_unreadable() {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let ask = |question: &[u8]| {
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(crate::BOUND)).unwrap();
        stream.write_all(question).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    assert_eq!(ask(b"ruok").unwrap(), "imok");
    assert_eq!(
        (proxy.count("ruok"), proxy.connections_unreadable()),
        (1, 0)
    );
    // The server closes such a connection, with or without a reply.
    let _ = ask(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(proxy.connections_unreadable(), 1);
}
