//! A server that answers nothing for ten seconds.

use std::{sync::Arc, time::Duration};

use tenure_core::loss::LossReason;
use tenure_test_servers::{redis::Server, wire::Proxy};
use tokio::time::{Instant, sleep_until};

use crate::common::{
    OPERATION_TIMEOUT, acquire, client, expect_granted, hold, name, queue_length, seconds,
    wait_until,
};

const BLOCK_TIME: Duration = seconds(10);
const LOCKS: usize = 5;
/// Each of the two clients closes the silent connection and makes a few failed attempts.
const MAX_CONNECTIONS: u64 = 2 * 8;

/// Long leases survive. Holders of short leases learn of the loss by the deadline. Afterwards the
/// same clients continue.
async fn leases_while_blocked(block: impl FnOnce(Arc<Server>)) {
    let server = Arc::new(Server::builder().start().unwrap());
    let proxy = Proxy::start(server.address()).unwrap();
    let holding = client(&proxy.url(), seconds(30)).await;
    let waiting = client(&proxy.url(), seconds(30)).await;
    let (mut long, mut short, mut waiters) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..LOCKS {
        long.push(hold(&holding, &format!("long {index}")).await);
        let lock = holding
            .lock(format!("short {index}"))
            .unwrap()
            .ttl(seconds(2));
        short.push(lock.acquire().await.unwrap());
        waiters.push(acquire(&waiting, &format!("short {index}")));
    }
    wait_until("all waiters are queued", OPERATION_TIMEOUT, || {
        (0..LOCKS).all(|index| queue_length(&server, &format!("short {index}")) == 1)
    })
    .await;

    let begun = Instant::now();
    block(Arc::clone(&server));
    for guard in &short {
        let reason = tokio::time::timeout(seconds(4), guard.lost()).await;
        assert_eq!(
            reason,
            Ok(LossReason::Expired),
            "l1: lost by the deadline while the server is blocked"
        );
    }
    assert!(begun.elapsed() < BLOCK_TIME / 2, "l1");
    let tokens: Vec<_> = short.iter().map(|guard| guard.token()).collect();
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    sleep_until(begun + BLOCK_TIME).await;
    for guard in &long {
        assert!(guard.check().is_ok(), "l5");
        guard.renew().await.unwrap();
    }
    for (waiter, token) in waiters.into_iter().zip(tokens) {
        let guard = expect_granted("the waiter is granted", OPERATION_TIMEOUT, waiter).await;
        assert!(guard.token() > token, "t1");
        let _ = guard.release().await;
    }
    for guard in short {
        assert!(guard.check().is_err(), "l4");
    }
    let again = hold(&holding, "another").await;
    let _ = again.release().await;
    for guard in long {
        assert!(guard.check().is_ok());
        let state = holding.inspect(&name(guard.name().as_str())).await.unwrap();
        assert_eq!(state.holder.unwrap().token, Some(guard.token()));
    }
    let made = proxy.connections_made();
    assert!(made <= MAX_CONNECTIONS, "{made} connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_server_asleep_for_ten_seconds() {
    leases_while_blocked(|server| {
        tokio::task::spawn_blocking(move || server.command(&["DEBUG", "SLEEP", "10"]).unwrap());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_clients_paused_for_ten_seconds() {
    leases_while_blocked(|server| {
        server.command(&["CLIENT", "PAUSE", "10000"]).unwrap();
    })
    .await;
}
