//! Keys that another program has put, deleted or overwritten.

use std::{io::Write as _, process::Stdio};

use tenure_core::{Guard, Release, loss::LossReason};
use tenure_test_servers::{etcd::Server, wire::Proxy};
use tokio::time::sleep;

use crate::common::{
    WAIT_LIMIT, acquire_free, client, compact, etcdctl, etcdctl_command, expect_granted, millis,
    seconds, spawn_acquire, wait_for_waiters,
};

fn put(server: &Server, key: &str, value: &[u8]) {
    let mut child = etcdctl_command(&server.address())
        .args(["put", key])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(value).unwrap();
    assert!(child.wait().unwrap().success());
}

/// The key of a grant.
fn key_of(server: &Server, guard: &Guard) -> String {
    let prefix = format!("default/{}/", guard.name());
    let attempt = guard.attempt().to_string();
    // Each key is one line; its value is the next line.
    let entries = etcdctl(&server.address(), &["get", "--prefix", &prefix]);
    let lines: Vec<&str> = entries.lines().collect();
    let entry = lines.chunks(2).find(|pair| pair[1].contains(&attempt));
    entry.unwrap()[0].to_owned()
}

/// R1: the key in front is not a contender, and the holder's first request is lost on the way.
#[tokio::test(flavor = "multi_thread")]
async fn r1_repeated_release_behind_unrelated_key_is_released() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), seconds(10)).await;
    etcdctl(&server.address(), &["put", "default/a/hello", "x"]);
    for round in 0..3 {
        let guard = acquire_free(&client, "a").await;
        sleep(millis(100)).await;
        proxy.hold_requests();
        let release = tokio::spawn(async move { guard.release().await });
        sleep(millis(100)).await;
        proxy.cut().unwrap();
        proxy.release_requests();
        let released = release.await.unwrap();
        assert!(
            matches!(released, Release::Released),
            "R1, round {round}: {released:?}"
        );
    }
}

/// L2: the grant was deleted, and the key put again, while its owner was disconnected.
#[tokio::test(flavor = "multi_thread")]
async fn l2_key_deleted_and_put_again_is_no_grant() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let client = client(&proxy.url(), seconds(60)).await;
    let guard = acquire_free(&client, "a").await;
    let waiter = spawn_acquire(&client, "a");
    wait_for_waiters(&client, "a", 1).await;
    sleep(millis(100)).await;
    let key = key_of(&server, &guard);
    proxy.refuse(true).unwrap();
    proxy.cut().unwrap();
    etcdctl(&server.address(), &["del", &key]);
    put(&server, &key, b"whatever");
    // A watch would report it, but the history is compacted.
    compact(&server.address());
    proxy.refuse(false).unwrap();
    let reason = tokio::time::timeout(seconds(9), guard.lost()).await;
    assert_eq!(reason, Ok(LossReason::Evicted), "L2");
    let next = expect_granted("the waiter is granted", WAIT_LIMIT, waiter).await;
    assert!(next.token() > guard.token());
}

/// W2, K1: a watch event may be larger than a usual message.
#[tokio::test(flavor = "multi_thread")]
async fn s2_large_values_of_a_watched_key_keep_the_watch_stream_open() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::for_etcd(server.address()).unwrap();
    let (away, here) = (
        client(&proxy.url(), seconds(60)).await,
        client(&server.url(), seconds(60)).await,
    );
    let guard = acquire_free(&here, "a").await;
    let waiter = spawn_acquire(&away, "a");
    wait_for_waiters(&here, "a", 1).await;
    sleep(millis(100)).await;
    let key = key_of(&server, &guard);
    let lease = key.rsplit('/').next().unwrap().split('-').next().unwrap();
    proxy.refuse(true).unwrap();
    proxy.cut().unwrap();
    for _ in 0..4 {
        let mut child = etcdctl_command(&server.address())
            .args(["put", &format!("--lease={lease}"), &key])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let value = vec![b'x'; 1_400_000];
        child.stdin.take().unwrap().write_all(&value).unwrap();
        assert!(child.wait().unwrap().success());
    }
    proxy.refuse(false).unwrap();
    sleep(seconds(5)).await;
    let before = proxy.connections_made();
    sleep(seconds(5)).await;
    let made = proxy.connections_made() - before;
    drop(guard);
    let _ = expect_granted("the waiter is granted", seconds(10), waiter).await;
    assert!(made <= 1, "{made} connections in five seconds");
}

/// A contender that cannot be read lies in front of a waiter by its create revision.
#[tokio::test(flavor = "multi_thread")]
async fn s2_s3_no_waiter_is_granted_past_an_unreadable_contender() {
    let server = Server::builder().start().unwrap();
    let client = client(&server.url(), seconds(5)).await;
    for value in [&b"\xff\x00"[..], b"{\"tenure\":2}", b"{}"] {
        let key = "default/a/1f-0";
        put(&server, key, value);
        let lock = client.lock("a").unwrap();
        let error = lock.acquire_within(seconds(1)).await.unwrap_err();
        assert!(error.to_string().contains("default/a/"), "{error}");
        let error = lock.try_acquire().await.unwrap_err();
        assert!(error.to_string().contains("default/a/"), "{error}");
        let keys = etcdctl(
            &server.address(),
            &["get", "--prefix", "--keys-only", "default/a/"],
        );
        assert_eq!(keys.trim(), key, "R4: an entry was left");
        etcdctl(&server.address(), &["del", key]);
        let _ = acquire_free(&client, "a").await.release().await;
    }
}

/// T1: a free lock leaves nothing in the store that would remember a floor.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tokens fall if clients of one namespace have different floors; how to document that is open"]
async fn t1_client_with_lower_floor_grants_no_lower_token() {
    let server = Server::builder().start().unwrap();
    let lifted = crate::common::builder(&server.url())
        .token_floor(tenure_core::token::FencingToken::new(1_000_000))
        .connect()
        .await
        .unwrap();
    let plain = client(&server.url(), seconds(10)).await;
    let guard = acquire_free(&lifted, "a").await;
    let before = guard.token();
    let waiter = spawn_acquire(&plain, "a");
    wait_for_waiters(&plain, "a", 1).await;
    let _ = guard.release().await;
    let next = expect_granted("the waiter is granted", WAIT_LIMIT, waiter).await;
    assert!(next.token() > before, "T1: {} {before}", next.token());
}
