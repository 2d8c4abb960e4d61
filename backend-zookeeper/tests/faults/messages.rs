//! The messages when no server can be reached: one for each cause.

use tenure_core::{
    Client, ClientBuilder,
    driver::ConnectionOptions,
    error::{Error, ErrorKind},
    settings::{StoreUrl, Tls},
};
use tenure_test_servers::zookeeper::Server;
use tenure_zookeeper::{Options, ZooKeeperStore};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::sleep,
};

use crate::{
    common::{SOON, TICK, TTL, client, cluster, millis, room, server},
    foreign::children,
};

fn builder(url: &str, tls: Tls) -> ClientBuilder {
    let connection = ConnectionOptions::default()
        .with_tls(tls)
        .with_connect_timeout(millis(5000));
    let options = Options::default().tick(TICK).connection(connection);
    let store = ZooKeeperStore::open(&StoreUrl::parse(url).unwrap(), options).unwrap();
    Client::builder(store).request_timeout(3 * SOON)
}

/// Connects, and returns the error.
async fn refusal(url: &str, tls: Tls) -> Error {
    builder(url, tls).connect().await.unwrap_err()
}

async fn expect(url: &str, tls: Tls, kind: ErrorKind, part: &str) {
    let error = refusal(url, tls).await;
    let shown = error.to_string();
    assert!(shown.contains(part), "{shown}");
    assert_eq!(error.kind(), kind, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_on_which_nothing_listens() {
    let _room = room().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("zookeeper://127.0.0.1:{port}");
    expect(
        &url,
        Tls::default(),
        ErrorKind::Unavailable,
        "nothing listens there",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_kind() {
    let _room = room().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let web = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4]).await;
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                .await;
        }
    });
    let url = format!("zookeeper://127.0.0.1:{port}");
    expect(
        &url,
        Tls::default(),
        ErrorKind::Unavailable,
        "does not speak the ZooKeeper protocol",
    )
    .await;
    web.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_quorum() {
    let _room = room().await;
    let cluster = cluster();
    for member in 1..3 {
        cluster.server(member).kill();
    }
    let url = cluster.server(0).url();
    // The server serves until it notices that the other members are gone.
    let begun = tokio::time::Instant::now();
    loop {
        let store = ZooKeeperStore::open(
            &StoreUrl::parse(&url).unwrap(),
            Options::default().tick(TICK),
        );
        match Client::builder(store.unwrap()).connect().await {
            Ok(client) => drop(client.shutdown(SOON).await),
            Err(error) if error.to_string().contains("it has no quorum") => break,
            Err(error) => assert!(begun.elapsed() < SOON, "{error}"),
        };
        sleep(millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_no_connection_left_for_this_host() {
    let _room = room().await;
    let server = Server::builder()
        .config("maxClientCnxns", "1")
        .start()
        .unwrap();
    let first = client(&server.url()).await;
    let guard = crate::common::hold(&first, "a").await;
    expect(
        &server.url(),
        Tls::default(),
        ErrorKind::Exhausted,
        "maxClientCnxns",
    )
    .await;
    assert!(guard.check().is_ok());
    let secured = Server::builder()
        .tls()
        .config("maxClientCnxns", "1")
        .start()
        .unwrap();
    let files = secured.certificates().unwrap();
    let tls = || Tls::new(Some(files.ca_file()), None, None);
    let first = builder(&secured.url(), tls()).ttl(TTL).connect().await;
    let first = first.unwrap();
    let guard = crate::common::hold(&first, "a").await;
    expect(
        &secured.url(),
        tls(),
        ErrorKind::Exhausted,
        "maxClientCnxns",
    )
    .await;
    assert!(guard.check().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_that_only_one_side_speaks() {
    let _room = room().await;
    let (plain, secured) = (server(), Server::builder().tls().start().unwrap());
    let files = secured.certificates().unwrap();
    let tls = || Tls::new(Some(files.ca_file()), None, None);
    let url = secured.url().replace("zookeepers://", "zookeeper://");
    expect(
        &url,
        Tls::default(),
        ErrorKind::Unavailable,
        "zookeepers://",
    )
    .await;
    let url = plain.url().replace("zookeeper://", "zookeepers://");
    let error = refusal(&url, tls()).await;
    assert!(error.to_string().contains("TLS"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_not_accepted() {
    let _room = room().await;
    let secured = Server::builder()
        .require_client_certificate()
        .start()
        .unwrap();
    let other = Server::builder().tls().start().unwrap();
    let (files, wrong) = (
        secured.certificates().unwrap(),
        other.certificates().unwrap(),
    );
    let tls = Tls::new(Some(wrong.ca_file()), None, None);
    expect(&secured.url(), tls, ErrorKind::Config, "certificate").await;
    // The server requires a client certificate.
    let tls = Tls::new(Some(files.ca_file()), None, None);
    let error = refusal(&secured.url(), tls).await;
    assert!(error.to_string().contains("certificate"), "{error}");
    let tls = Tls::new(Some("absent.pem".into()), None, None);
    expect(&secured.url(), tls, ErrorKind::Config, "absent.pem").await;
}

/// Another program keeps an ephemeral node where the locks should be.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_below_an_ephemeral_node() {
    let _room = room().await;
    let server = server();
    let first = client(&server.url()).await;
    let guard = crate::common::hold(&first, "a").await;
    let node = children(&server, "/default/a").await.remove(0);
    let url = format!("{}/default/a/{node}", server.url());
    let second = client(&url).await;
    let lock = second.lock("b").unwrap();
    let error = lock.try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("ephemeral node"), "{error}");
    expect(
        &format!("{url}/below"),
        Tls::default(),
        ErrorKind::Config,
        "ephemeral node",
    )
    .await;
    assert!(guard.check().is_ok());
}
