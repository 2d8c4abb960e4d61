//! This project and programs that lock with `SET key value NX PX` exclude each other.

use std::time::Duration;

use tenure_core::{Acquisition, Client, Release, error::ErrorKind};
use tenure_redis::Options;
use tenure_test_servers::redis::{Server, Value};
use tokio::time::sleep;

use crate::common::{acquire, expect_granted, millis, seconds, store};

const TTL: Duration = seconds(60);
/// A waiter checks a foreign holder every 200 ms.
const RECHECK_TIMEOUT: Duration = seconds(2);

async fn client(server: &Server) -> Client {
    let options = Options::default().plain_key("lock:{name}");
    let store = store(&server.url(), options);
    Client::builder(store).ttl(TTL).connect().await.unwrap()
}

fn foreign_set(server: &Server, value: &str, ms: &str) -> bool {
    let answer = server
        .command(&["SET", "lock:x", value, "NX", "PX", ms])
        .unwrap();
    answer == Value::Okay
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_plain_client_and_this_client_exclude_each_other() {
    let server = Server::builder().start().unwrap();
    let client = client(&server).await;
    let lock = client.lock("x").unwrap();

    let guard = lock.acquire().await.unwrap();
    assert!(!foreign_set(&server, "mine", "60000"));
    guard.renew().await.unwrap();
    assert!(!foreign_set(&server, "mine", "60000"));
    let _ = guard.release().await;

    assert!(foreign_set(&server, "mine", "60000"));
    let Acquisition::Busy(holder) = lock.try_acquire().await.unwrap() else {
        panic!("both hold the lock");
    };
    assert_eq!(holder.attempt, None, "a5: the holder is shown as foreign");
    let left = holder.expires_in.unwrap();
    assert!(left > seconds(30) && left <= seconds(60), "a5: {left:?}");
    let state = client.inspect(lock.name()).await.unwrap();
    assert_eq!(state.holder.unwrap().attempt, None);
    assert_eq!(
        server.text(&["GET", "lock:x"]).unwrap(),
        "mine",
        "r1: the foreign key is unchanged"
    );
    server.command(&["DEL", "lock:x"]).unwrap();
    let next = lock.acquire().await.unwrap();
    assert!(
        next.token() > guard.token(),
        "t1: tokens rise after a foreign holder"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_waiter_notices_the_end_of_a_plain_client() {
    let server = Server::builder().start().unwrap();
    let client = client(&server).await;
    // The foreign lock is deleted, expires, or never expires by itself.
    for (ms, delete) in [("60000", true), ("300", false), ("", true)] {
        if ms.is_empty() {
            server.command(&["SET", "lock:x", "mine"]).unwrap();
        } else {
            assert!(foreign_set(&server, "mine", ms));
        }
        let waiter = acquire(&client, "x");
        let second = acquire(&client, "x");
        sleep(millis(250)).await;
        if delete {
            assert!(!waiter.is_finished() && !second.is_finished());
            assert_eq!(server.text(&["GET", "lock:x"]).unwrap(), "mine");
            server.command(&["DEL", "lock:x"]).unwrap();
        }
        let (guard, other) = {
            let (mut waiter, mut second) = (waiter, second);
            let either = async {
                tokio::select! {
                    guard = &mut waiter => (guard.unwrap(), second),
                    guard = &mut second => (guard.unwrap(), waiter),
                }
            };
            tokio::time::timeout(RECHECK_TIMEOUT, either).await.unwrap()
        };
        assert!(!other.is_finished(), "x1");
        assert!(!foreign_set(&server, "mine", "60000"));
        let _ = guard.release().await;
        let guard =
            expect_granted("the next waiter is granted by push", RECHECK_TIMEOUT, other).await;
        let _ = guard.release().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_key_of_another_type_is_an_error_and_stays_unchanged() {
    let server = Server::builder().start().unwrap();
    let client = client(&server).await;
    let lock = client.lock("x").unwrap();
    server.command(&["RPUSH", "lock:x", "one", "two"]).unwrap();
    let error = lock.try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("lock:x"), "{error}");
    let error = lock.acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(
        server.text(&["LRANGE", "lock:x", "0", "-1"]).unwrap(),
        "one\ntwo"
    );
    assert_eq!(
        server.text(&["DBSIZE"]).unwrap(),
        "1",
        "none of our keys remains"
    );

    // The same, with a foreign key in place of a grant.
    server.command(&["DEL", "lock:x"]).unwrap();
    let guard = lock.acquire().await.unwrap();
    server.command(&["DEL", "lock:x"]).unwrap();
    server.command(&["RPUSH", "lock:x", "one"]).unwrap();
    let Release::Unknown(error) = guard.release().await else {
        panic!("a foreign key was released");
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(server.text(&["TYPE", "lock:x"]).unwrap(), "list");
}
