//! Replies that are lost, and requests that arrive after they were given up.

use std::time::Duration;

use tenure_core::{Acquisition, Client, Guard, Release, error::ErrorKind};
use tenure_test_servers::{redis::Server, wire::Proxy};

use crate::common::{
    DelayedPath, OPERATION_TIMEOUT, builder, client, connected, enqueue_waiter, expect_granted,
    hold, is_unused, key, keys, queue_length, seconds, wait_until,
};

/// Much longer than any of these tests may wait for what must not wait for it.
const TTL: Duration = seconds(60);

/// A try whose answer does not come.
async fn acquire_without_reply(client: &Client, lock: &str) {
    let lock = client.lock(lock).unwrap();
    let error = lock.acquire_within(OPERATION_TIMEOUT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "a3: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_an_enqueue_whose_reply_is_lost_leaves_nobody_behind() {
    let server = Server::builder().start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let other = client(&server.url(), TTL).await;
    for round in 0..10 {
        let client = client(&proxy.url(), TTL).await;
        proxy.drop_reply_of_and_cut("EVALSHA");
        acquire_without_reply(&client, "a").await;
        let lock = other.lock("a").unwrap();
        let held = lock
            .acquire_within(OPERATION_TIMEOUT)
            .await
            .unwrap()
            .acquired();
        let held = held.unwrap_or_else(|| panic!("round {round}: a ghost holds the lock"));

        connected(&client).await;
        proxy.drop_reply_of_and_cut("EVALSHA");
        acquire_without_reply(&client, "a").await;
        wait_until("no ghost waits", OPERATION_TIMEOUT, || {
            queue_length(&server, "a") == 0
        })
        .await;
        let _ = held.release().await;
        assert!(is_unused(&server, "a"), "round {round}");
        assert_eq!(client.live_attempts(), 0);
    }
    assert_eq!(proxy.replies_dropped(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_an_enqueue_that_arrives_after_its_removal_has_no_effect() {
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
            acquire_without_reply(&late, "a"),
            path.cut_after_script_sent()
        );
        // Its removal goes another way.
        let fenced = key("a", "fenced:*");
        wait_until("it is fenced off", OPERATION_TIMEOUT, || {
            !keys(&server, &fenced).is_empty()
        })
        .await;
        path.release(&server).await;
        assert_eq!(queue_length(&server, "a"), 0, "a ghost waits");
        if let Some(holder) = &holder {
            holder.renew().await.unwrap();
            let _ = holder.release().await;
        }
        assert!(is_unused(&server, "a"), "a ghost holds the lock");
        server.command(&["FLUSHALL"]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_release_whose_reply_is_lost_is_a_release() {
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
                let next = expect_granted("the waiter's turn", OPERATION_TIMEOUT, waiter).await;
                let _ = next.release().await;
            }
        }
    }
    assert_eq!(proxy.replies_dropped(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_release_that_stays_unanswered_is_unknown_and_goes_on() {
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
        // What was held back is lost with its connection.
        proxy.cut().unwrap();
        proxy.release_replies();
        proxy.release_requests();
        wait_until("it is removed in the background", OPERATION_TIMEOUT, || {
            is_unused(&server, "a")
        })
        .await;
        let again = guard.release().await;
        assert!(matches!(again, Release::Released), "{again:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_two_renewals_lost_in_a_row_are_no_loss() {
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
        // One whose connections were not lost before: it need not wait before it makes another.
        let client = client(&proxy.url(), seconds(3)).await;
        let guard = hold(&client, "a").await;
        // Carried out, and the reply lost with the connection.
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
        // No answer at all on a connection that stays, and then neither a connection.
        proxy.reset();
        proxy.hold_replies();
        wait_until("two renewals are on their way", OPERATION_TIMEOUT, || {
            proxy.count("EVALSHA") == 2
        })
        .await;
        assert!(guard.check().is_ok(), "round {round}");
        proxy.cut().unwrap();
        proxy.release_replies();
        renewed(&guard).await;
        let busy = client.lock("a").unwrap().try_acquire().await.unwrap();
        let Acquisition::Busy(holder) = busy else {
            panic!("two hold it");
        };
        assert_eq!(holder.token, Some(guard.token()), "t2");
        let released = guard.release().await;
        assert!(matches!(released, Release::Released), "{released:?}");
    }
}
