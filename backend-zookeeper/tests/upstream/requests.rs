//! When requests are written, and on which connection.

use tenure_test_servers::wire::{Command, Proxy};
use tokio::time::Instant;
use zookeeper_client::{Acls, Client, CreateMode, SessionState};

use crate::common::{LONG, SOON, millis, room, server, until};

/// When this fails, the defect is mended upstream; the driver has no workaround.
#[tokio::test(flavor = "multi_thread")]
async fn two_requests_at_once_take_two_round_trips() {
    const PAIRS: u32 = 20;
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let client = Client::connect(&proxy.address()).await.unwrap();
    let plain = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
    let delay = millis(20);
    proxy.delay_replies(delay);
    // A new connection is acknowledged at once for a while.
    let begun = Instant::now();
    for _ in 0..PAIRS {
        client.create("/a", b"", &plain).await.unwrap();
    }
    let single = begun.elapsed() / PAIRS;
    proxy.reset();
    let begun = Instant::now();
    for _ in 0..PAIRS {
        let (create, list) = (client.create("/a", b"", &plain), client.get_children("/"));
        create.await.unwrap();
        list.await.unwrap();
    }
    let pair = begun.elapsed() / PAIRS;
    println!("one request takes {single:?}, two that are issued together take {pair:?}");
    let of = |name: &'static str| {
        let commands = proxy.commands().into_iter();
        commands.filter(move |command: &Command| command.name == name)
    };
    let late = of("create2")
        .zip(of("getChildren2"))
        .filter(|(create, list)| list.at.since(create.at) > delay / 2)
        .count();
    println!("{late} of {PAIRS} second requests came after the first reply");
    assert!(late > 10);
}

/// When this fails, the defect is mended upstream, and the driver need not drop a session's task
/// with each connection.
#[tokio::test(flavor = "multi_thread")]
async fn a2_a_request_that_was_given_up_is_sent_on_the_next_connection() {
    let _room = room().await;
    let server = server();
    let proxy = Proxy::for_zookeeper(server.address()).unwrap();
    let connector = Client::connector().with_session_timeout(LONG);
    let client = connector.connect(&proxy.address()).await.unwrap();
    proxy.refuse(true).unwrap();
    proxy.cut().unwrap();
    until("it knows", SOON, || {
        client.state() == SessionState::Disconnected
    })
    .await;
    let plain = CreateMode::Persistent.with_acls(Acls::anyone_all());
    drop(client.create("/late", b"", &plain));
    proxy.refuse(false).unwrap();
    until("the node is made", SOON, || proxy.count("create2") == 1).await;
    client.sync("/").await.unwrap();
    assert!(client.check_stat("/late").await.unwrap().is_some());
}
