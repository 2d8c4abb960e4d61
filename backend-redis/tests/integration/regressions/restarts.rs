//! A server that restarts from a snapshot.

use std::time::Duration;

use tenure_core::{
    Client,
    clock::{Clock as _, SystemClock},
    id::AttemptId,
    request::{Enqueued, Evicted, Remove, Removed},
};
use tenure_redis::Options;
use tenure_test_servers::{redis::Server, wire::Proxy};

use crate::common::{RawBackend, client, enqueue_waiter, hold, name, seconds, store};

/// X1 with `restart_delay`: the server restarts from a snapshot (the default of redis.conf) that is
/// older than the holder's last renewals. A waiter in that snapshot was granted the lock
/// immediately.
#[tokio::test(flavor = "multi_thread")]
async fn x1_restart_delay_applies_to_waiters_from_a_snapshot() {
    const TTL: Duration = seconds(4);
    const DELAY: Duration = seconds(6);
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let careful = async |url: &str, ttl| {
        let store = store(url, Options::default().restart_delay(DELAY));
        Client::builder(store).ttl(ttl).connect().await.unwrap()
    };
    // The server has just started.
    tokio::time::sleep(DELAY + seconds(2)).await;
    let holder = careful(&proxy.url(), TTL).await;
    let guard = hold(&holder, "a").await;
    let other = careful(&server.url(), seconds(60)).await;
    let waiter = enqueue_waiter(&server, &other, "a", 1).await;
    server.command(&["SAVE"]).unwrap();
    // The holder keeps renewing for longer than one TTL after the snapshot.
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

/// During the delay, an eviction or a removal frees the lock and grants it to nobody: the holder that the
/// server shows may be older than one that it has forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn x1_no_waiter_is_promoted_during_the_restart_delay() {
    const TTL: Duration = seconds(60);
    let server = Server::builder().start().unwrap();
    // Without the delay. A client would answer the loss with a request that grants the lock.
    let holder = RawBackend::connect(&server.url(), Options::default()).await;
    let client = client(&server.url(), TTL).await;
    let careful = Options::default().restart_delay(seconds(3600));
    let careful = RawBackend::connect(&server.url(), careful).await;
    for lock in ["evicted", "removed"] {
        let attempt = AttemptId::random().unwrap();
        let request = RawBackend::enqueue(lock, attempt, TTL);
        let Enqueued::Granted(grant) = holder.backend.enqueue(request).await.unwrap() else {
            panic!("{lock} is not free");
        };
        let waiter = enqueue_waiter(&server, &client, lock, 1).await;
        let name = name(lock);
        if lock == "evicted" {
            let evicted = careful.backend.evict(&name, grant.token).await.unwrap();
            assert_eq!(evicted, Evicted::Evicted);
        } else {
            let remove = Remove::new(name.clone(), attempt, TTL, true);
            let removed = careful.backend.remove(remove).await.unwrap();
            assert_eq!(removed, Removed::AsHolder);
        }
        let state = careful.backend.inspect(&name).await.unwrap();
        assert!(state.holder.is_none(), "{lock}: {state:?}");
        assert_eq!(state.queue.len(), 1, "{lock}: {state:?}");
        waiter.abort();
    }
}

fn now() -> tenure_core::clock::Instant {
    SystemClock.now()
}
