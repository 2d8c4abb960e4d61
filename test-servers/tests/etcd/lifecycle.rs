//! A server comes up, answers, and is gone afterwards.

use std::{net::TcpStream, path::Path};

use tenure_test_servers::etcd::Server;

#[test]
fn a_server_serves_on_its_port_and_is_gone_when_dropped() {
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
