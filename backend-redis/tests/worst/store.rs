//! Servers that restart, and what is said of them.

use std::time::Duration;

use tenure_core::clock::{Clock as _, SystemClock};
use tenure_core::{Client, error::ErrorKind, secret::Secret, token::FencingToken};
use tenure_redis::Options;
use tenure_test_servers::{redis::Server, wire::Proxy};

use crate::common::{
    SOON, builder, connected, hold, is_idle, key, millis, seconds, store, until, wait_in_line,
};

/// S1: a server that does not know HELLO (a renamed command, as managed services have it, or a
/// proxy) quotes the arguments of what it does not know.
#[tokio::test(flavor = "multi_thread")]
async fn s1_the_password_is_not_in_the_error_of_a_server_without_hello() {
    let server = Server::builder()
        .config("rename-command", "HELLO \"\"")
        .start();
    let server = server.unwrap();
    let options =
        Options::default().credentials(Some("alice".into()), Some(Secret::new("canary-secret")));
    let error = Client::builder(store(&server.url(), options))
        .connect()
        .await
        .unwrap_err();
    eprintln!("{error}\n{error:?}");
    assert!(!error.to_string().contains("canary-secret"), "{error}");
    assert!(!format!("{error:?}").contains("canary-secret"), "{error:?}");
}

/// X1 with `restart_delay`: the server comes back with a snapshot (the default of redis.conf) that
/// is older than the holder's last renewals. Whoever waited then is given the lock at once.
#[tokio::test(flavor = "multi_thread")]
async fn x1_restart_delay_holds_for_those_who_wait_in_a_snapshot() {
    const TTL: Duration = seconds(4);
    const DELAY: Duration = seconds(6);
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let careful = async |url: &str, ttl| {
        let store = store(url, Options::default().restart_delay(DELAY));
        Client::builder(store).ttl(ttl).connect().await.unwrap()
    };
    // The server is new.
    tokio::time::sleep(DELAY + seconds(2)).await;
    let holder = careful(&proxy.url(), TTL).await;
    let guard = hold(&holder, "a").await;
    let other = careful(&server.url(), seconds(60)).await;
    let waiter = wait_in_line(&server, &other, "a", 1).await;
    server.command(&["SAVE"]).unwrap();
    // The holder goes on renewing for longer than one TTL after the snapshot.
    tokio::time::sleep(TTL + seconds(1)).await;
    guard.check().unwrap();
    proxy.refuse(true).unwrap();
    let _ = proxy.cut();
    server.restart().unwrap();
    let restarted = now();
    let got = tokio::time::timeout(TTL, waiter).await;
    let still = guard.check();
    eprintln!(
        "{:?} after the restart: waiter {got:?}; old guard {still:?}",
        now().since(restarted)
    );
    if let Ok(Ok(new)) = got {
        assert!(
            still.is_err() || new.check().is_err(),
            "x1: two holders at once, {:?} after the restart, with restart_delay = {DELAY:?}",
            now().since(restarted)
        );
    }
}

/// T1: a floor above the server's clock (microseconds) is all that keeps tokens up there.
#[tokio::test(flavor = "multi_thread")]
async fn t1_tokens_above_the_clock_rise_across_a_restart_and_a_deletion() {
    let server = Server::builder().start().unwrap();
    let floor = FencingToken::new(1 << 60);
    for by_restart in [false, true] {
        let client = builder(&server.url())
            .token_floor(floor)
            .ttl(seconds(10))
            .connect()
            .await
            .unwrap();
        let mut last = FencingToken::new(0);
        for _ in 0..5 {
            let guard = hold(&client, "a").await;
            assert!(guard.token() > last);
            last = guard.token();
            let _ = guard.release().await;
        }
        if by_restart {
            server.restart().unwrap();
        } else {
            server.command(&["DEL", &key("a", "fence")]).unwrap();
        }
        connected(&client).await;
        let guard = hold(&client, "a").await;
        assert!(
            guard.token() > last,
            "t1: restart {by_restart}: {last} and then {}",
            guard.token()
        );
        let _ = guard.release().await;
    }
}

/// A4: what arrives one TTL after its removal finds no fence any more.
#[tokio::test(flavor = "multi_thread")]
async fn a4_an_enqueue_that_arrives_later_than_one_ttl_has_no_effect() {
    let server = Server::builder().start().unwrap();
    let detour = crate::common::Detour::start(&server);
    let late = builder(&detour.url())
        .ttl(millis(500))
        .connect()
        .await
        .unwrap();
    detour.bypass();
    let lock = late.lock("a").unwrap();
    let (outcome, ()) = tokio::join!(lock.acquire_within(SOON), detour.cut_off());
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    let fenced = key("a", "fenced:*");
    until("it is fenced off", SOON, || {
        !crate::common::keys(&server, &fenced).is_empty()
    })
    .await;
    tokio::time::sleep(millis(700)).await;
    detour.let_go(&server).await;
    assert!(is_idle(&server, "a"), "a ghost holds the lock");
}

/// S1: the same of a sentinel.
#[tokio::test(flavor = "multi_thread")]
async fn s1_the_sentinels_password_is_not_in_an_error() {
    let server = Server::builder()
        .config("rename-command", "AUTH \"\"")
        .start()
        .unwrap();
    let options = Options::default()
        .sentinel_credentials(Some("bob".into()), Some(Secret::new("canary-secret")));
    let url = format!("redis+sentinel://{}/main", server.address());
    let error = Client::builder(store(&url, options))
        .connect()
        .await
        .unwrap_err();
    eprintln!("{error}\n{error:?}");
    assert!(
        !format!("{error} {error:?}").contains("canary-secret"),
        "{error}"
    );
}

fn now() -> tenure_core::clock::Instant {
    SystemClock.now()
}
