//! Replies that are lost, and requests that arrive after their client has given them up.

use std::time::Duration;

use tenure_core::{Acquisition, Guard, Release, error::ErrorKind};
use tenure_test_servers::{redis::Server, wire::Proxy};

use crate::common::{
    DelayedPath, OPERATION_TIMEOUT, acquire_without_reply, builder, client, connected,
    enqueue_waiter, expect_granted, hold, is_unused, key, keys, queue_length, seconds, wait_until,
};

/// Much longer than any wait of these tests that must not depend on it.
const TTL: Duration = seconds(60);

#[tokio::test(flavor = "multi_thread")]
async fn a4_enqueue_with_a_lost_reply_leaves_no_entry() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let other = client(&server.url(), TTL).await;
    for round in 0..10 {
        let client = client(&proxy.url(), TTL).await;
        proxy.drop_reply_of_and_cut("EVALSHA");
        acquire_without_reply(&server, &client, "a").await;
        let lock = other.lock("a").unwrap();
        let held = lock
            .acquire_within(OPERATION_TIMEOUT)
            .await
            .unwrap()
            .acquired();
        let held = held.unwrap_or_else(|| panic!("round {round}: a late request holds the lock"));

        connected(&client).await;
        proxy.drop_reply_of_and_cut("EVALSHA");
        acquire_without_reply(&server, &client, "a").await;
        wait_until("no late request left a waiter", OPERATION_TIMEOUT, || {
            queue_length(&server, "a") == 0
        })
        .await;
        let _ = held.release().await;
        assert!(is_unused(&server, "a"), "round {round}");

        connected(&client).await;
        proxy.drop_reply_of_and_cut("EVALSHA");
        let tried = client.lock("a").unwrap().try_acquire().await;
        let error = tried.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "a3: {error}");
        wait_until("no late request holds the lock", OPERATION_TIMEOUT, || {
            is_unused(&server, "a")
        })
        .await;
        assert_eq!(client.live_attempts(), 0);
    }
    assert_eq!(proxy.replies_dropped(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_enqueue_arriving_after_its_removal_has_no_effect() {
    let server = Server::builder().start().unwrap();
    let other = client(&server.url(), TTL).await;
    for is_held in [false, true] {
        let holder = match is_held {
            true => Some(hold(&other, "a").await),
            false => None,
        };
        let path = DelayedPath::start(&server);
        let late = client(&path.url(), TTL).await;
        path.bypass();
        let _ = tokio::join!(
            acquire_without_reply(&server, &late, "a"),
            path.cut_after_script_sent()
        );
        // The removal takes the direct path.
        let fenced = key("a", "fenced:*");
        wait_until("the attempt is fenced off", OPERATION_TIMEOUT, || {
            !keys(&server, &fenced).is_empty()
        })
        .await;
        path.release(&server).await;
        assert_eq!(
            queue_length(&server, "a"),
            0,
            "a late request left a waiter"
        );
        if let Some(holder) = &holder {
            holder.renew().await.unwrap();
            let _ = holder.release().await;
        }
        assert!(is_unused(&server, "a"), "a late request holds the lock");
        server.command(&["FLUSHALL"]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_release_with_a_lost_reply_counts_as_released() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let other = client(&server.url(), TTL).await;
    for round in 0..20 {
        let client = client(&proxy.url(), TTL).await;
        let guard = hold(&client, "a").await;
        let waiter = match round % 2 {
            0 => None,
            _ => Some(enqueue_waiter(&server, &other, "a", 1).await),
        };
        proxy.drop_reply_of_and_cut("EVALSHA");
        let released = guard.release().await;
        assert!(
            matches!(released, Release::Released),
            "round {round}: {released:?}"
        );
        match waiter {
            None => assert!(is_unused(&server, "a"), "round {round}"),
            Some(waiter) => {
                let next = expect_granted("the waiter is granted", OPERATION_TIMEOUT, waiter).await;
                let _ = next.release().await;
            }
        }
    }
    assert_eq!(proxy.replies_dropped(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_unanswered_release_is_unknown_and_continues_in_background() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let client = builder(&proxy.url()).ttl(TTL).request_timeout(seconds(1));
    let client = client.connect().await.unwrap();
    for carried_out in [false, true] {
        connected(&client).await;
        let guard = hold(&client, "a").await;
        if carried_out {
            proxy.hold_replies();
        } else {
            proxy.hold_requests();
        }
        let released = guard.release().await;
        let Release::Unknown(error) = &released else {
            panic!("{released:?}");
        };
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
        assert_eq!(is_unused(&server, "a"), carried_out);
        // The requests that were held back are lost with their connection.
        proxy.cut().unwrap();
        proxy.release_replies();
        proxy.release_requests();
        wait_until(
            "the attempt is removed in the background",
            OPERATION_TIMEOUT,
            || is_unused(&server, "a"),
        )
        .await;
        let again = guard.release().await;
        assert!(matches!(again, Release::Released), "{again:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_two_renewals_lost_in_a_row_lose_no_lease() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let renewed = async |guard: &Guard| {
        let before = guard.valid_until();
        wait_until("a renewal is proved", OPERATION_TIMEOUT, || {
            guard.check().unwrap();
            guard.valid_until() > before
        })
        .await;
    };
    for round in 0..3 {
        // A client that has lost no connection before, so it reconnects without delay.
        let client = client(&proxy.url(), seconds(3)).await;
        let guard = hold(&client, "a").await;
        // The server executes the renewal; its reply is lost with the connection.
        for lost in 1..=2 {
            let before = proxy.replies_dropped();
            proxy.drop_reply_of_and_cut("EVALSHA");
            wait_until("a renewal's reply is lost", OPERATION_TIMEOUT, || {
                proxy.replies_dropped() > before
            })
            .await;
            assert!(guard.check().is_ok(), "round {round}, lost {lost}");
        }
        renewed(&guard).await;
        // First no reply on a connection that stays open, and then no connection.
        proxy.reset();
        proxy.hold_replies();
        wait_until("two renewals have been sent", OPERATION_TIMEOUT, || {
            proxy.count("EVALSHA") == 2
        })
        .await;
        assert!(guard.check().is_ok(), "round {round}");
        proxy.cut().unwrap();
        proxy.release_replies();
        renewed(&guard).await;
        let busy = client.lock("a").unwrap().try_acquire().await.unwrap();
        let Acquisition::Busy(holder) = busy else {
            panic!("two guards hold the lock");
        };
        assert_eq!(holder.token, Some(guard.token()), "t2");
        let released = guard.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
    }
}
