//! The number of round trips of each step, counted on the wire.

use tenure_core::{Acquisition, Release, backend::RenewalAnswers, request::Renewal};
use tenure_test_servers::{redis::Server, wire::Proxy};

use crate::common::{
    OPERATION_TIMEOUT, acquire, client, expect_granted, hold, queue_length, seconds, wait_until,
};

const TTL: std::time::Duration = seconds(60);

fn names(proxy: &Proxy) -> Vec<String> {
    proxy.commands().into_iter().map(|c| c.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn t2_free_lock_is_acquired_and_released_in_one_round_trip_each() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let client = client(&proxy.url(), TTL).await;
    for round in 0..3 {
        proxy.reset();
        let guard = hold(&client, "a").await;
        assert_eq!(names(&proxy), ["EVALSHA"], "round {round}");
        assert_eq!(proxy.requests(), 1);
        guard.check().unwrap();
        proxy.reset();
        let released = guard.release().await;
        assert!(matches!(released, Release::Released));
        assert_eq!(names(&proxy), ["EVALSHA"], "round {round}");
        assert_eq!(proxy.requests(), 1);
    }
    assert_eq!(proxy.connections_made(), 1);
    assert_eq!(proxy.connections_unreadable(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_next_holder_needs_no_round_trip_after_the_push() {
    let server = Server::builder().start().unwrap();
    let first = client(&server.url(), TTL).await;
    let proxy = Proxy::start(server.address()).unwrap();
    let second = client(&proxy.url(), TTL).await;

    let guard = hold(&first, "a").await;
    proxy.reset();
    let busy = second.lock("a").unwrap().try_acquire().await.unwrap();
    assert!(matches!(busy, Acquisition::Busy(_)));
    assert_eq!(names(&proxy), ["EVALSHA"], "a try");

    proxy.reset();
    let waiter = acquire(&second, "a");
    wait_until("the waiter is queued", OPERATION_TIMEOUT, || {
        queue_length(&server, "a") == 1
    })
    .await;
    assert_eq!(names(&proxy), ["EVALSHA"], "a contended acquire");

    // From now on, no request of this client reaches the server, so only the push can grant the
    // lock.
    proxy.hold_requests();
    proxy.reset();
    let _ = guard.release().await;
    let guard = expect_granted("the push grants the lock", OPERATION_TIMEOUT, waiter).await;
    guard.check().unwrap();
    // The immediate renewal (D4) has been sent and has not reached the server.
    wait_until(
        "the new holder renews immediately",
        OPERATION_TIMEOUT,
        || proxy.count("EVALSHA") == 1,
    )
    .await;
    assert_eq!(proxy.requests(), 1);
    let pushed_until = guard.valid_until();
    proxy.release_requests();
    wait_until("the renewal is proved", OPERATION_TIMEOUT, || {
        guard.valid_until() > pushed_until
    })
    .await;
    proxy.reset();
    let _ = guard.release().await;
    assert_eq!(names(&proxy), ["EVALSHA"], "a release");
}

/// K3: the script that renews does not find the grant, and another one would report what became of it.
#[tokio::test(flavor = "multi_thread")]
async fn k3_second_request_of_a_renewal_is_not_sent_after_the_release() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let client = client(&proxy.url(), TTL).await;
    let guard = hold(&client, "a").await;
    let token = Some(guard.token());
    let entry = Renewal::new(guard.name().clone(), guard.attempt(), TTL, token);
    server.command(&["FLUSHDB"]).unwrap();
    for (wanted, requests) in [(true, 2), (false, 1)] {
        proxy.reset();
        let answers = RenewalAnswers::new(|_, _| {}).wanted_while(move |_| wanted);
        client.backend().renew(vec![entry.clone()], answers).await;
        assert_eq!(names(&proxy).len(), requests, "{:?}", names(&proxy));
    }
}
