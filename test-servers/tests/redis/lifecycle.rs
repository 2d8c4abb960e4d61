//! The start and the end of a server.

use std::{net::TcpStream, path::Path, thread};

use tenure_test_servers::{redis::Server, wire::Proxy};

use crate::{QUIET, RawClient};

#[test]
fn server_serves_on_its_port_and_its_socket_until_it_is_dropped() {
    let server = Server::builder().start().unwrap();
    let (address, directory) = (server.address(), server.directory().to_owned());
    let process = format!("/proc/{}", server.process_id().unwrap());
    let mut client = RawClient::connect(&address);
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    assert_eq!(server.text(&["PING"]).unwrap(), "PONG");
    assert_eq!(server.url(), format!("redis://127.0.0.1:{}", server.port()));
    assert!(Path::new(&process).exists() && server.is_running());

    drop(server);
    assert!(!Path::new(&process).exists());
    assert!(!directory.exists());
    TcpStream::connect(&address).unwrap_err();
    client.expect_end();
}

#[test]
fn servers_started_at_the_same_time_do_not_disturb_each_other() {
    let starts: Vec<_> = (0..8)
        .map(|_| thread::spawn(|| Server::builder().start().unwrap()))
        .collect();
    let mut servers: Vec<Server> = starts.into_iter().map(|s| s.join().unwrap()).collect();
    for server in &servers {
        let own = server.port().to_string();
        server.command(&["SET", "port", &own]).unwrap();
    }
    servers.drain(..4);
    for server in &servers {
        let own = server.port().to_string();
        assert_eq!(server.text(&["GET", "port"]).unwrap(), own);
    }
}

#[test]
fn killed_server_refuses_and_restarts_empty_on_the_same_port() {
    let server = Server::builder().start().unwrap();
    server.command(&["SET", "key", "value"]).unwrap();
    let (port, process) = (server.port(), server.process_id());
    server.kill();
    assert!(!server.is_running());
    assert_eq!(server.process_id(), None);
    TcpStream::connect(server.address()).unwrap_err();
    server.command(&["PING"]).unwrap_err();
    server.pause().unwrap_err();

    server.restart().unwrap();
    assert_eq!(server.port(), port);
    assert_ne!(server.process_id(), process);
    assert_eq!(server.text(&["DBSIZE"]).unwrap(), "0");
}

#[test]
fn persistent_data_survives_a_kill() {
    let server = Server::builder()
        .config("appendonly", "yes")
        .config("appendfsync", "always")
        .start()
        .unwrap();
    server.command(&["SET", "key", "value"]).unwrap();
    server.restart().unwrap();
    assert_eq!(server.text(&["GET", "key"]).unwrap(), "value");
}

#[test]
fn paused_server_does_not_answer_until_it_is_resumed() {
    let server = Server::builder().start().unwrap();
    server.pause().unwrap();
    // The system still accepts connections for the server.
    let mut client = RawClient::connect(&server.address());
    client.send(b"PING\r\n");
    client.expect_silence();
    server.resume().unwrap();
    client.expect(b"+PONG\r\n");
    server.pause().unwrap();
    // Dropping the value ends a paused server as well.
}

#[test]
fn started_replica_has_the_data_of_its_master() {
    let master = Server::builder().start().unwrap();
    master.command(&["SET", "key", "value"]).unwrap();
    let replica = Server::builder().replica_of(&master).start().unwrap();
    assert_eq!(replica.text(&["GET", "key"]).unwrap(), "value");
    assert_eq!(replica.info("role").unwrap().as_deref(), Some("slave"));
    master.command(&["SET", "key", "later"]).unwrap();
    replica.wait_until_in_step(&master).unwrap();
    assert_eq!(replica.text(&["GET", "key"]).unwrap(), "later");
    let refused = replica.command(&["SET", "key", "other"]).unwrap_err();
    assert!(refused.to_string().contains("read only"), "{refused}");
}

#[test]
fn wait_until_in_step_waits_for_a_replica_that_lags() {
    let master = Server::builder().start().unwrap();
    let link = Proxy::start(master.address()).unwrap();
    let behind = format!("127.0.0.1 {}", link.port());
    let replica = Server::builder()
        .config("replicaof", &behind)
        .start()
        .unwrap();
    replica.wait_until_in_step(&master).unwrap();

    link.hold_replies();
    master.command(&["SET", "key", "value"]).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| replica.wait_until_in_step(&master));
        thread::sleep(QUIET);
        let early = waiting.is_finished();
        link.release_replies();
        waiting.join().unwrap().unwrap();
        assert!(!early);
    });
    assert_eq!(replica.text(&["GET", "key"]).unwrap(), "value");
}

#[test]
fn missing_program_is_an_error_with_an_installation_hint() {
    let missing = Server::builder().program("no-such-redis").start();
    assert_eq!(
        missing.unwrap_err().to_string(),
        "cannot start a Redis server: no `no-such-redis` found; install Redis 7.0 or later \
         (Debian: apt-get install redis-server)"
    );
}

#[test]
fn failed_start_is_an_error_with_the_log() {
    let broken = Server::builder().config("no-such-directive", "1").start();
    let error = broken.unwrap_err().to_string();
    assert!(error.contains("ended at its start"), "{error}");
    assert!(error.contains("no-such-directive"), "{error}");
}

#[test]
fn stepped_clock_moves_the_time_and_the_expiry_of_one_server_only() {
    const HOUR: i64 = 3600;
    let stepped = Server::builder().steppable_clock().start().unwrap();
    let other = Server::builder().steppable_clock().start().unwrap();
    let time = |server: &Server| -> i64 {
        let time = server.text(&["TIME"]).unwrap();
        time.lines().next().unwrap().parse().unwrap()
    };
    // The distance of the two clocks, with slack for the time between the readings.
    let is_ahead = |seconds: i64| (time(&stepped) - time(&other) - seconds).abs() < 60;
    let ttl = || {
        stepped
            .text(&["TTL", "key"])
            .unwrap()
            .parse::<i64>()
            .unwrap()
    };
    assert!(is_ahead(0));
    stepped.command(&["SET", "key", "1", "EX", "1800"]).unwrap();

    stepped.set_clock_offset(-HOUR).unwrap();
    assert!(is_ahead(-HOUR));
    assert!(ttl() > HOUR, "{}", ttl());
    // It survives a restart, as the clock of a machine does.
    stepped.restart().unwrap();
    assert!(is_ahead(-HOUR));

    stepped.command(&["SET", "key", "1", "EX", "1800"]).unwrap();
    stepped.set_clock_offset(0).unwrap();
    assert_eq!(stepped.text(&["EXISTS", "key"]).unwrap(), "0");
    assert!(is_ahead(0));

    let plain = Server::builder().start().unwrap();
    assert!(plain.set_clock_offset(HOUR).is_err());
}
