//! The start and the end of a server.

use std::{net::TcpStream, path::Path, time::Duration};

use tenure_test_servers::zookeeper::Server;
use tokio::time::timeout;

use crate::{QUIET, connect, create, exists};

#[test]
fn server_serves_on_its_port_until_it_is_dropped() {
    let server = Server::builder().start().unwrap();
    let (address, directory) = (server.address(), server.directory().to_owned());
    let process = format!("/proc/{}", server.process_id().unwrap());
    TcpStream::connect(&address).unwrap();
    let url = format!("zookeeper://127.0.0.1:{}", server.port());
    assert_eq!(server.url(), url);
    assert!(server.version().unwrap().starts_with("3."));
    assert_eq!(server.mode().unwrap().as_deref(), Some("standalone"));
    assert_eq!(server.four_letters("ruok").unwrap(), "imok");
    let nodes = server.metric("zk_ephemerals_count").unwrap();
    assert_eq!(nodes.as_deref(), Some("0"));
    assert!(Path::new(&process).exists() && server.is_running());

    drop(server);
    assert!(!Path::new(&process).exists());
    assert!(!directory.exists());
    TcpStream::connect(&address).unwrap_err();
}

#[tokio::test]
async fn acknowledged_data_survives_a_kill_but_not_a_wipe() {
    let server = Server::builder().start().unwrap();
    let client = connect(&server.address()).await;
    create(&client, "/node").await.unwrap();
    let (port, process) = (server.port(), server.process_id());
    server.kill();
    assert!(!server.is_running());
    assert_eq!(server.process_id(), None);
    TcpStream::connect(server.address()).unwrap_err();
    server.pause().unwrap_err();
    server.version().unwrap_err();

    server.restart().unwrap();
    assert_eq!(server.port(), port);
    assert_ne!(server.process_id(), process);
    assert!(exists(&connect(&server.address()).await, "/node").await);

    server.wipe().unwrap();
    assert_eq!(server.port(), port);
    assert!(!exists(&connect(&server.address()).await, "/node").await);
}

#[tokio::test]
async fn paused_server_does_not_answer_until_it_is_resumed() {
    // Longer ticks, so that the session survives the pause.
    let server = Server::builder()
        .tick(Duration::from_secs(1))
        .start()
        .unwrap();
    let client = connect(&server.address()).await;
    create(&client, "/node").await.unwrap();
    server.pause().unwrap();
    let asked = client.check_stat("/node");
    tokio::pin!(asked);
    timeout(QUIET, asked.as_mut()).await.unwrap_err();
    assert!(server.is_running());
    server.resume().unwrap();
    assert!(asked.await.unwrap().is_some());
    server.pause().unwrap();
    // Dropping the value ends a paused server as well.
}

#[tokio::test]
async fn tick_bounds_the_timeouts_of_sessions() {
    let tick = Duration::from_secs(1);
    let server = Server::builder()
        .tick(tick)
        .force_sync(false)
        .start()
        .unwrap();
    for (asked, given) in [(1, 2), (10, 10), (100, 20)] {
        let connector = zookeeper_client::Client::connector().with_session_timeout(tick * asked);
        let client = connector.connect(&server.address()).await.unwrap();
        assert_eq!(client.session_timeout(), tick * given);
    }
}

#[test]
fn missing_archives_are_an_error_with_an_installation_hint() {
    let empty = tempfile::tempdir().unwrap();
    let missing = Server::builder().archives(empty.path()).start();
    let expected = format!(
        "cannot start a ZooKeeper server: no archive of ZooKeeper in {}; install Java and \
         ZooKeeper 3.5 or later (Debian: apt-get install libzookeeper-java default-jre-headless), \
         or set TENURE_ZOOKEEPER to the directory of its archives",
        empty.path().display()
    );
    assert_eq!(missing.unwrap_err().to_string(), expected);
}

#[test]
fn failed_start_is_an_error_with_the_log() {
    let broken = Server::builder().config("tickTime", "soon").start();
    let error = broken.unwrap_err().to_string();
    assert!(error.contains("ended at its start"), "{error}");
    assert!(error.contains("soon"), "{error}");
}
