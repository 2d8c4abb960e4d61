//! Tokens that have to rise although the last one is forgotten.

use tenure_core::token::FencingToken;
use tenure_test_servers::redis::Server;

use crate::common::{builder, connected, hold, key, seconds};

/// T1: the record of the last token lives for a day after the grant, and renewals do not extend it.
/// If a lock was held for longer, the clock keeps tokens rising. (The test shortens the day.)
#[tokio::test(flavor = "multi_thread")]
async fn t1_tokens_rise_after_a_lock_is_held_for_longer_than_a_day() {
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
    eprintln!(
        "last-token records left: {left}; {token} and then {}",
        next.token()
    );
    assert!(
        next.token() > token,
        "t1: {token} and then {}",
        next.token()
    );
}

/// T1: for a floor above the server's clock (microseconds), only the floor keeps tokens that high.
#[tokio::test(flavor = "multi_thread")]
async fn t1_tokens_above_the_clock_rise_across_restart_and_deletion() {
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
