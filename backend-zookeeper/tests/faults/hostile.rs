//! Servers that violate the protocol.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tenure_core::{Client, error::ErrorKind};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::common::{
    LONG, SOON, TTL, acquire, client_for, granted, hold, millis, room, server, store, until,
};

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts the panics of this process from now on.
fn count_panics() -> usize {
    static HOOKED: std::sync::Once = std::sync::Once::new();
    HOOKED.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            hook(panic);
        }));
    });
    PANICS.load(Ordering::SeqCst)
}

/// The answers of a hostile server.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |length: i32, rest: &[u8]| {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(rest);
        bytes
    };
    let mut seed = 7_u64;
    let mut noise = vec![0; 4096];
    for byte in &mut noise {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = seed.to_be_bytes()[0];
    }
    vec![
        ("noise", noise),
        ("a web page", b"HTTP/1.1 200 OK\r\n\r\n<html>".to_vec()),
        ("an empty frame", frame(0, b"")),
        ("a negative length", frame(-2, b"")),
        ("a frame of one byte", frame(1, b"x")),
        ("an answer to nothing", frame(16, &[7; 16])),
        ("an event without a path", frame(16, &[0xff; 16])),
        ("1 GB", frame(1 << 30, &vec![0; 1 << 20])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_garbage_in_place_of_a_handshake_is_an_error() {
    let _room = room().await;
    let panics = count_panics();
    for (what, bytes) in garbage() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let bytes = bytes.clone();
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 4]).await;
                    let _ = stream.write_all(&bytes).await;
                    sleep(SOON).await;
                });
            }
        });
        let connecting = Client::builder(store(&format!("zookeeper://{address}"))).connect();
        let error = tokio::time::timeout(SOON, connecting).await.unwrap();
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error}");
        serving.abort();
    }
    assert_eq!(PANICS.load(Ordering::SeqCst), panics);
}

/// Passes bytes in both directions; while switched on, it sends garbage in place of the answers.
async fn relay(listener: TcpListener, server: String, hostile: Arc<AtomicBool>, bytes: Vec<u8>) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(&server).await else {
            continue;
        };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        let (hostile, bytes) = (Arc::clone(&hostile), bytes.clone());
        tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                let sent = if hostile.load(Ordering::SeqCst) {
                    to_client.write_all(&bytes).await
                } else {
                    to_client.write_all(&buffer[..count]).await
                };
                if sent.is_err() {
                    break;
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_l5_garbage_in_place_of_answers_costs_no_lock() {
    let _room = room().await;
    let panics = count_panics();
    let server = server();
    for (what, bytes) in garbage() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("zookeeper://{}", listener.local_addr().unwrap());
        let hostile = Arc::new(AtomicBool::new(false));
        let relaying = tokio::spawn(relay(
            listener,
            server.address(),
            Arc::clone(&hostile),
            bytes,
        ));
        let owner = client_for(&url, LONG).await;
        let guard = hold(&owner, "held").await;
        hostile.store(true, Ordering::SeqCst);
        let asked = owner.lock("other").unwrap().try_acquire().await;
        assert!(asked.is_err(), "{what}: {asked:?}");
        hostile.store(false, Ordering::SeqCst);
        let before = guard.valid_until();
        until("it is proved again", SOON, || {
            assert!(guard.check().is_ok(), "{what} cost the lock");
            guard.valid_until() > before
        })
        .await;
        let other = granted("another lock", SOON, acquire(&owner, "other")).await;
        assert!(other.check().is_ok());
        drop((guard, other));
        owner.shutdown(TTL + millis(500)).await;
        relaying.abort();
    }
    assert_eq!(PANICS.load(Ordering::SeqCst), panics);
}
