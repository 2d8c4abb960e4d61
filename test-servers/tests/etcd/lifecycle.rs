//! The start and the end of a server.

use std::{net::TcpStream, path::Path};

use tenure_test_servers::etcd::Server;
use tokio::time::timeout;

use crate::{QUIET, connect, get};

#[test]
fn server_serves_on_its_port_until_it_is_dropped() {
    let server = Server::builder().start().unwrap();
    let (address, directory) = (server.address(), server.directory().to_owned());
    let process = format!("/proc/{}", server.process_id().unwrap());
    TcpStream::connect(&address).unwrap();
    assert_eq!(server.url(), format!("etcd://127.0.0.1:{}", server.port()));
    assert!(server.version().unwrap().starts_with("3."));
    assert!(server.is_leader().unwrap());
    assert!(Path::new(&process).exists() && server.is_running());

    drop(server);
    assert!(!Path::new(&process).exists());
    assert!(!directory.exists());
    TcpStream::connect(&address).unwrap_err();
}

#[tokio::test]
async fn acknowledged_data_survives_a_kill_but_not_a_wipe() {
    let server = Server::builder().start().unwrap();
    let mut client = connect(server.address()).await;
    client.put("key", "value", None).await.unwrap();
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
    let mut client = connect(server.address()).await;
    assert_eq!(get(&mut client, "key").await.as_deref(), Some("value"));
    assert_eq!(server.etcdctl(&["get", "key"]).unwrap(), "key\nvalue\n");

    server.wipe().unwrap();
    assert_eq!(server.port(), port);
    let mut client = connect(server.address()).await;
    assert_eq!(get(&mut client, "key").await, None);
}

#[tokio::test]
async fn paused_server_does_not_answer_until_it_is_resumed() {
    let server = Server::builder().start().unwrap();
    let mut client = connect(server.address()).await;
    client.put("key", "value", None).await.unwrap();
    server.pause().unwrap();
    timeout(QUIET, client.get("key", None)).await.unwrap_err();
    assert!(server.is_running());
    server.resume().unwrap();
    assert_eq!(get(&mut client, "key").await.as_deref(), Some("value"));
    server.pause().unwrap();
    // Dropping the value ends a paused server as well.
}

#[test]
fn missing_program_is_an_error_with_an_installation_hint() {
    let missing = Server::builder().program("no-such-etcd").start();
    assert_eq!(
        missing.unwrap_err().to_string(),
        "cannot start an etcd server: no `no-such-etcd` found; install etcd 3.4 or later (Debian: \
         apt-get install etcd-server), or set TENURE_ETCD to its path"
    );
}

#[test]
fn failed_start_is_an_error_with_the_log() {
    let broken = Server::builder().flag("--election-timeout=11").start();
    let error = broken.unwrap_err().to_string();
    assert!(error.contains("ended at its start"), "{error}");
    assert!(error.contains("election-timeout[11ms]"), "{error}");
}
