//! The faults of the proxy on connections to Redis.

use std::{io::ErrorKind, net::TcpStream, time::Duration};

use tenure_core::clock::{Clock, SystemClock};
use tenure_test_servers::{redis::Server, wire::Proxy};

use crate::{BOUND, RawClient};

struct Setting {
    server: Server,
    proxy: Proxy,
    client: RawClient,
}

/// Starts a server with a proxy, and connects a client through the proxy.
fn setting() -> Setting {
    let server = Server::builder().start().unwrap();
    let (proxy, client) = connect(&server);
    Setting {
        server,
        proxy,
        client,
    }
}

fn connect(server: &Server) -> (Proxy, RawClient) {
    let proxy = Proxy::start(server.address()).unwrap();
    let mut client = RawClient::connect(&proxy.address());
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    (proxy, client)
}

fn get(server: &Server, key: &str) -> String {
    server.text(&["GET", key]).unwrap()
}

#[track_caller]
fn wait_for_value(server: &Server, key: &str, value: &str) {
    let begun = SystemClock.now();
    while get(server, key) != value {
        assert!(SystemClock.now().since(begun) < BOUND, "{key}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn cut_closes_every_connection_and_accepts_new_ones() {
    let Setting {
        server,
        proxy,
        mut client,
    } = setting();
    let mut idle = RawClient::connect(&proxy.address());
    idle.send(b"PING\r\n");
    idle.expect(b"+PONG\r\n");
    proxy.cut().unwrap();
    assert_eq!(proxy.connections_open(), 0);
    client.expect_end();
    idle.expect_end();
    let mut again = RawClient::connect(&proxy.address());
    again.send(b"SET a 1\r\n");
    again.expect(b"+OK\r\n");
    assert_eq!(get(&server, "a"), "1");
    assert_eq!(proxy.connections_made(), 3);
}

#[test]
fn refuse_lets_nobody_in_and_nobody_out() {
    let Setting {
        server: _server,
        proxy,
        mut client,
    } = setting();
    proxy.refuse(true).unwrap();
    let refused = TcpStream::connect(proxy.address()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    proxy.refuse(true).unwrap();
    proxy.refuse(false).unwrap();
    proxy.refuse(false).unwrap();
    let mut again = RawClient::connect(&proxy.address());
    again.send(b"PING\r\n");
    again.expect(b"+PONG\r\n");
}

#[test]
fn held_replies_arrive_when_released_after_their_requests_were_executed() {
    let Setting {
        server,
        proxy,
        mut client,
    } = setting();
    proxy.hold_replies();
    client.send(b"SET a 1\r\nSET b 2\r\n");
    wait_for_value(&server, "b", "2");
    client.expect_silence();
    proxy.release_replies();
    client.expect(b"+OK\r\n+OK\r\n");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

#[test]
fn held_replies_are_lost_when_the_connection_is_cut() {
    let Setting {
        server,
        proxy,
        mut client,
    } = setting();
    proxy.hold_replies();
    client.send(b"SET a 1\r\n");
    wait_for_value(&server, "a", "1");
    proxy.cut().unwrap();
    client.expect_end();
    proxy.release_replies();
}

#[test]
fn held_requests_are_executed_when_released() {
    let Setting {
        server,
        proxy,
        mut client,
    } = setting();
    proxy.hold_requests();
    client.send(b"SET a 1\r\n");
    client.expect_silence();
    assert_eq!((get(&server, "a"), proxy.count("SET")), (String::new(), 1));
    proxy.release_requests();
    client.expect(b"+OK\r\n");
    assert_eq!(get(&server, "a"), "1");
}

#[test]
fn held_requests_are_lost_when_the_connection_is_cut() {
    let Setting {
        server,
        proxy,
        mut client,
    } = setting();
    proxy.hold_requests();
    client.send(b"SET a 1\r\n");
    client.expect_silence();
    proxy.cut().unwrap();
    client.expect_end();
    proxy.release_requests();
    let mut again = RawClient::connect(&proxy.address());
    again.send(b"SET b 1\r\n");
    again.expect(b"+OK\r\n");
    assert_eq!(get(&server, "a"), "");
}

#[test]
fn dropped_reply_means_an_executed_request_and_a_closed_connection() {
    let server = Server::builder().start().unwrap();
    for round in 0..50 {
        let (proxy, mut client) = connect(&server);
        let (key, command) = (format!("a{round}"), format!("INCR a{round}\r\n"));
        proxy.drop_replies_and_cut();
        client.send(command.as_bytes());
        client.expect_end();
        // Without waiting: when the connection ends, the command has been executed.
        assert_eq!(get(&server, &key), "1", "round {round}");
        assert_eq!(proxy.replies_dropped(), 1);
        // The fault applies once, and the proxy's own command is not recorded.
        let mut again = RawClient::connect(&proxy.address());
        again.send(command.as_bytes());
        again.expect(b":2\r\n");
        assert_eq!(proxy.commands().len(), 3);
    }
}

#[test]
fn connection_ends_after_the_command_whose_reply_is_dropped() {
    let Setting {
        server,
        proxy,
        mut client,
    } = setting();
    // An earlier reply in flight must not be taken for the reply of the command.
    proxy.hold_replies();
    client.send(b"SET a 1\r\n");
    wait_for_value(&server, "a", "1");
    client.expect_silence();
    server.pause().unwrap();
    proxy.drop_replies_and_cut();
    client.send(b"INCR a\r\n");
    client.expect_silence();
    assert_eq!(proxy.replies_dropped(), 0);
    server.resume().unwrap();
    client.expect_end();
    assert_eq!(
        (get(&server, "a"), proxy.replies_dropped()),
        ("2".into(), 1)
    );
}

#[test]
fn only_the_reply_of_the_named_command_is_dropped() {
    let Setting {
        server,
        proxy,
        mut client,
    } = setting();
    proxy.drop_reply_of_and_cut("incr");
    client.send(b"SET a 1\r\n");
    client.expect(b"+OK\r\n");
    // Complete commands of a chunk reach the server; an incomplete command does not.
    client.send(b"SET b 1\r\nINCR a\r\nSET c 1\r\nSET d");
    client.expect_end();
    let values = ["a", "b", "c", "d"].map(|key| get(&server, key));
    assert_eq!(values, ["2", "1", "1", ""]);
}

#[test]
fn replies_are_dropped_for_subscribers_and_for_users_with_few_rights() {
    let server = Server::builder()
        .acl_user("app", "secret", "~* &* +set +subscribe +hello")
        .start()
        .unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    for hello in [
        b"AUTH app secret\r\n".as_slice(),
        b"HELLO 3 AUTH app secret\r\n",
    ] {
        let mut client = RawClient::connect(&proxy.address());
        client.send(hello);
        client.send(b"SUBSCRIBE news\r\n");
        let mut greeting = Vec::new();
        while !greeting.ends_with(b"news\r\n:1\r\n") {
            greeting.extend(client.byte());
        }
        proxy.drop_reply_of_and_cut("SUBSCRIBE");
        client.send(b"SUBSCRIBE more\r\n");
        client.expect_end();
    }
    let mut client = RawClient::connect(&proxy.address());
    client.send(b"AUTH app secret\r\n");
    client.expect(b"+OK\r\n");
    proxy.drop_reply_of_and_cut("SET");
    client.send(b"SET a 1\r\n");
    client.expect_end();
    assert_eq!(get(&server, "a"), "1");
    assert_eq!(proxy.replies_dropped(), 3);
}

#[test]
fn dropped_proxy_closes_its_connections() {
    let Setting {
        server: _server,
        proxy,
        mut client,
    } = setting();
    let address = proxy.address();
    drop(proxy);
    client.expect_end();
    TcpStream::connect(address).unwrap_err();
}

#[test]
fn delays_of_replies_run_concurrently() {
    const DELAY: Duration = Duration::from_secs(2);
    let Setting {
        server: _server,
        proxy,
        mut client,
    } = setting();
    proxy.reset();
    proxy.delay_replies(DELAY);
    let begun = SystemClock.now();
    for count in 1..=10 {
        client.send(b"PING\r\n");
        while proxy.count("PING") < count {
            std::thread::yield_now();
        }
    }
    client.expect(b"+PONG\r\n");
    let first = SystemClock.now();
    assert!(first.since(begun) >= DELAY);
    for _ in 1..10 {
        client.expect(b"+PONG\r\n");
    }
    // One after the other, the next reply would take the delay once more.
    let others = SystemClock.now().since(first);
    assert!(others < DELAY, "{others:?}");
}
