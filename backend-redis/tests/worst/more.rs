//! Fences that run out, replicas, and versions that meet.

use tenure_core::{Client, error::ErrorKind, secret::Secret, token::FencingToken};
use tenure_redis::Options;
use tenure_test_servers::redis::Server;

use crate::common::{
    SOON, builder, client, hold, key, millis, queue_length, seconds, store, until, wait_in_line,
};

/// T1: the note of the last token lives for a day after the grant, and renewals do not touch it. When a
/// lock was held for longer, the clock keeps tokens rising. (The day is made short by hand.)
#[tokio::test(flavor = "multi_thread")]
async fn t1_tokens_rise_after_a_lock_was_held_for_longer_than_a_day() {
    let server = Server::builder().start().unwrap();
    let client = builder(&server.url())
        .token_floor(FencingToken::new(1 << 60))
        .ttl(seconds(3))
        .connect()
        .await
        .unwrap();
    let _ = hold(&client, "a").await.release().await;
    let guard = hold(&client, "a").await;
    let token = guard.token();
    server
        .command(&["PEXPIRE", &key("a", "fence"), "100"])
        .unwrap();
    tokio::time::sleep(seconds(3)).await;
    guard.renew().await.unwrap();
    let _ = guard.release().await;
    let left = server.text(&["EXISTS", &key("a", "fence")]).unwrap();
    let next = hold(&client, "a").await;
    eprintln!("fences left: {left}; {token} and then {}", next.token());
    assert!(
        next.token() > token,
        "t1: {token} and then {}",
        next.token()
    );
}

/// A4, S3: a place behind an entry of a newer version (or a malformed one) is taken before that
/// entry is read; the answer is an error "without effect".
#[tokio::test(flavor = "multi_thread")]
async fn a4_an_acquire_refused_for_a_newer_waiter_leaves_nothing() {
    for bad in ["tenure/2 whatever", "tenure/1 nonsense"] {
        let server = Server::builder().start().unwrap();
        let client = client(&server.url(), seconds(30)).await;
        let guard = hold(&client, "a").await;
        let id = "c".repeat(32);
        server
            .command(&["ZADD", &key("a", "queue"), "1", &id])
            .unwrap();
        server
            .command(&["HSET", &key("a", "entries"), &id, bad])
            .unwrap();
        let lock = client.lock("a").unwrap();
        let error = lock.acquire_within(seconds(5)).await.unwrap_err();
        assert!(matches!(
            error.kind(),
            ErrorKind::NewerFormat | ErrorKind::Corrupt
        ));
        tokio::time::sleep(millis(300)).await;
        let ghosts = queue_length(&server, "a") - 1;
        // The newer one leaves; the holder too.
        server.command(&["ZREM", &key("a", "queue"), &id]).unwrap();
        server
            .command(&["HDEL", &key("a", "entries"), &id])
            .unwrap();
        let _ = guard.release().await;
        let next = lock.try_acquire().await;
        assert_eq!(
            ghosts, 0,
            "a4: {bad}: {ghosts} ghosts in the queue; then {next:?}"
        );
    }
}

/// N2: a name whose plain key would be another lock's key of ours.
#[tokio::test(flavor = "multi_thread")]
async fn n2_no_plain_key_is_one_of_ours() {
    let server = Server::builder().start().unwrap();
    let options = Options::default().plain_key("{name}");
    let client = Client::builder(store(&server.url(), options))
        .connect()
        .await
        .unwrap();
    let _guard = hold(&client, "x").await;
    let other = client.lock("tenure:{x}:default:x:fence").unwrap();
    let error = other.try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// Nothing of a client stays connected after it is shut down or dropped, also with replicas.
#[tokio::test(flavor = "multi_thread")]
async fn r5_no_connection_stays_after_a_shutdown() {
    let master = Server::builder().start().unwrap();
    let replica = Server::builder().replica_of(&master).start().unwrap();
    replica.wait_until_in_step(&master).unwrap();
    let count = || {
        let list = master.text(&["CLIENT", "LIST", "TYPE", "NORMAL"]).unwrap();
        let pubsub = master.text(&["CLIENT", "LIST", "TYPE", "PUBSUB"]).unwrap();
        list.lines().count() + pubsub.lines().count()
    };
    let before = count();
    let mut kept = Vec::new();
    for round in 0..4 {
        let options = Options::default().replicas(1, seconds(2));
        let client = Client::builder(store(&master.url(), options));
        let client = client.ttl(seconds(10)).connect().await.unwrap();
        let guard = hold(&client, "a").await;
        let waiter = wait_in_line(&master, &client, "a", 1).await;
        if round % 2 == 0 {
            let report = client.shutdown(seconds(5)).await;
            assert!(report.unreleased.is_empty());
            kept.push((client, guard));
            let _ = waiter.await;
        } else {
            waiter.abort();
            drop(guard);
            drop(client);
        }
        until("all are closed", SOON, || count() <= before).await;
    }
}

/// W2, C3: a right that is missing is said at the start, by its name, and not noticed in the middle of
/// a hand-over.
#[tokio::test(flavor = "multi_thread")]
async fn w2_missing_rights_are_named_at_the_start() {
    for (rights, named) in [
        ("~tenure:* &tenure:inbox:* +@all -publish", "+publish"),
        ("~tenure:* &tenure:inbox:* +@all -zadd -hget", "+hget +zadd"),
        ("~other:* &tenure:inbox:* +@all", "one of the keys"),
    ] {
        let server = Server::builder().acl_user("tenure", "pw", rights);
        let server = server.start().unwrap();
        let options =
            Options::default().credentials(Some("tenure".into()), Some(Secret::new("pw")));
        let connected = Client::builder(store(&server.url(), options))
            .connect()
            .await;
        let error = connected.map(|_| ()).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::PermissionDenied,
            "{rights}: {error}"
        );
        assert!(error.to_string().contains(named), "{rights}: {error}");
        // The check has left nothing behind.
        assert!(crate::common::keys(&server, "*").is_empty());
    }
}
