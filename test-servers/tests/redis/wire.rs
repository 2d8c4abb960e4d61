//! The proxy relays data unchanged and at once, and records it.

use std::{thread, time::Duration};

use tenure_core::clock::{Clock, SystemClock};
use tenure_test_servers::{redis::Server, wire::Proxy};

use crate::{BOUND, RawClient};

fn server_and_proxy() -> (Server, Proxy) {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    (server, proxy)
}

#[test]
fn commands_are_recorded_with_their_connection_and_arguments() {
    let (_server, proxy) = server_and_proxy();
    let mut one = RawClient::connect(&proxy.address());
    one.send(b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$2\r\n\r\n\r\nget k\r\n");
    one.expect(b"+OK\r\n$2\r\n\r\n\r\n");
    let mut two = RawClient::connect(&proxy.address());
    two.send(b"*1\r\n$4\r\nPI");
    two.expect_silence();
    two.send(b"NG\r\n");
    two.expect(b"+PONG\r\n");

    let commands = proxy.commands();
    let seen: Vec<_> = commands
        .iter()
        .map(|c| (c.connection, c.name.as_str()))
        .collect();
    assert_eq!(seen, [(1, "SET"), (1, "GET"), (2, "PING")]);
    assert_eq!(commands[0].arguments, [b"k".to_vec(), b"\r\n".to_vec()]);
    assert_eq!(
        (commands[1].argument(0), commands[1].argument(1)),
        ("k".into(), String::new())
    );
    assert!(commands[0].at <= commands[2].at && commands[2].at <= SystemClock.now());
    assert_eq!((proxy.count("get"), proxy.count("DEL")), (1, 0));
    // Two commands in one chunk, and one command in two chunks.
    assert_eq!(proxy.requests(), 2);
    assert_eq!((proxy.connections_made(), proxy.connections_open()), (2, 2));
    assert_eq!(proxy.connections_unreadable(), 0);

    proxy.reset();
    assert_eq!((proxy.commands().len(), proxy.requests()), (0, 0));
    assert_eq!(proxy.connections_made(), 2);
    drop(one);
    wait_until(|| proxy.connections_open() == 1);
}

#[test]
fn large_values_pass_unchanged_in_both_directions() {
    let (server, proxy) = server_and_proxy();
    let value: Vec<u8> = (0..5_000_000_u32)
        .map(|n| (n * 7 + n / 251) as u8)
        .collect();
    let mut client = RawClient::connect(&proxy.address());
    let header = format!("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n${}\r\n", value.len());
    client.send(&[header.as_bytes(), &value, b"\r\n"].concat());
    client.expect(b"+OK\r\n");
    client.send(b"GET key\r\n");
    let header = format!("${}\r\n", value.len());
    client.expect(&[header.as_bytes(), &value, b"\r\n"].concat());
    assert_eq!(proxy.commands()[0].arguments[1], value);
    assert_eq!(proxy.requests(), 2);
    assert_eq!(server.text(&["STRLEN", "key"]).unwrap(), "5000000");
}

#[test]
fn long_pipeline_is_counted_to_the_last_command() {
    let (_server, proxy) = server_and_proxy();
    let mut client = RawClient::connect(&proxy.address());
    client.send(&b"*1\r\n$4\r\nPING\r\n".repeat(20_000));
    client.expect(&b"+PONG\r\n".repeat(20_000));
    assert_eq!(proxy.count("PING"), 20_000);
    assert!(proxy.requests() < 2_000, "{}", proxy.requests());
}

#[test]
fn other_protocol_is_relayed_and_counted_as_unreadable() {
    let server = Server::builder().tls().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let ca = std::fs::read(server.certificates().unwrap().ca_file()).unwrap();
    let tls = redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(ca),
    };
    let url = format!("rediss://{}", proxy.address());
    crate::choose_cryptography();
    let client = redis::Client::build_with_tls(url, tls).unwrap();
    let mut connection = client.get_connection_with_timeout(BOUND).unwrap();
    for _ in 0..200 {
        let pong: String = redis::cmd("PING").query(&mut connection).unwrap();
        assert_eq!(pong, "PONG");
    }
    wait_until(|| proxy.connections_unreadable() == 1);
}

#[test]
fn small_messages_are_not_delayed() {
    let (_server, proxy) = server_and_proxy();
    let mut client = RawClient::connect(&proxy.address());
    let mut spans: Vec<Duration> = (0..50)
        .map(|_| {
            // In two separate chunks: with Nagle's algorithm the second chunk waits until the first one is
            // acknowledged, which takes tens of milliseconds.
            client.send(b"*1\r\n$4\r\n");
            thread::sleep(Duration::from_millis(3));
            let begun = SystemClock.now();
            client.send(b"PING\r\n");
            client.expect(b"+PONG\r\n");
            SystemClock.now().since(begun)
        })
        .collect();
    spans.sort();
    assert!(spans[25] < Duration::from_millis(15), "{:?}", spans[25]);
}

#[test]
fn target_of_a_proxy_can_change() {
    let (_first, proxy) = server_and_proxy();
    let second = Server::builder().start().unwrap();
    second.command(&["SET", "who", "2"]).unwrap();
    proxy.set_target(second.address()).unwrap();
    let mut client = RawClient::connect(&proxy.address());
    client.send(b"GET who\r\n");
    client.expect(b"$1\r\n2\r\n");
    second.kill();
    client.expect_end();
    // Without a server, the connection ends at once.
    RawClient::connect(&proxy.address()).expect_end();
    drop(proxy);
}

#[track_caller]
fn wait_until(mut condition: impl FnMut() -> bool) {
    let begun = SystemClock.now();
    while !condition() {
        assert!(SystemClock.now().since(begun) < BOUND);
        thread::sleep(Duration::from_millis(5));
    }
}
